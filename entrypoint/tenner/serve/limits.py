"""Limits of the page's server for strangers: connections, and time to send a request.

A connection that has sent no whole request is the first to go when there are too many, the oldest
of them first: a client that sends its request at once is always answered, however many others only
hold connections open.
"""

import asyncio
import ipaddress
from collections import Counter
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

PER_ADDRESS = 64
"""Connections from one address. A provider's proxy brings all viewers from one."""
OVERALL = 256
REQUEST_SECONDS = 10.0
"""From the first byte of a request (or the connection's start) to its last."""
ANSWER_SECONDS = 60.0
"""For a viewer to take the answer: a page of 2 MB at 0.3 Mbit/s."""

C = TypeVar("C")


@dataclass(kw_only=True)
class Connections(Generic[C]):
    """The open connections. `C` is a connection; those that are being answered are never closed."""

    per_address: int = PER_ADDRESS
    overall: int = OVERALL
    _waiting: dict[C, str] = field(default_factory=dict[C, str])
    """Connections without a whole request, with their addresses, the oldest first."""
    _answered: dict[C, str] = field(default_factory=dict[C, str])

    def admit(self, connection: C, address: str) -> C | None:
        """Take in a connection. Returns the one to close for it: another one, or itself where all
        others are being answered; None below the limits."""
        group = address_group(address)
        by_group = Counter([*self._waiting.values(), *self._answered.values()])
        self._waiting[connection] = group
        if by_group[group] >= self.per_address:
            return self._oldest(group)
        if by_group.total() >= self.overall:
            waiting = Counter(self._waiting.values())
            return self._oldest(max(waiting, key=lambda each: waiting[each]))
        return None

    def is_answered(self, connection: C) -> None:
        """Note that its request is complete."""
        group = self._waiting.pop(connection, None)
        if group is not None:
            self._answered[connection] = group

    def waits(self, connection: C) -> None:
        """Note that it has its answer, and may send another request."""
        group = self._answered.pop(connection, None)
        if group is not None:
            self._waiting[connection] = group

    def leave(self, connection: C) -> None:
        self._waiting.pop(connection, None)
        self._answered.pop(connection, None)

    def _oldest(self, group: str) -> C:
        return next(each for each, its in self._waiting.items() if its == group)


def address_group(address: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 address: what a single client surely has."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))


def _close(connections: Connections[asyncio.Protocol], connection: asyncio.Protocol | None) -> None:
    if isinstance(connection, H11Protocol):
        connection.transport.abort()
        connections.leave(connection)


def limited_protocol(
    connections: Connections[asyncio.Protocol],
    *,
    request_seconds: float = REQUEST_SECONDS,
    answer_seconds: float = ANSWER_SECONDS,
) -> type[H11Protocol]:
    """uvicorn's protocol for HTTP/1.1, within these limits."""

    class Limited(H11Protocol):
        """The protocol with one timer: for the request to arrive, then for the client to take the
        answer. When it expires the connection is aborted. `_reads` is True until the request is
        whole."""

        _timer: asyncio.TimerHandle | None = None
        _reads = True

        def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            super().connection_made(transport)
            peer: object = transport.get_extra_info("peername")
            address = str(peer[0]) if isinstance(peer, tuple) else ""  # pyright: ignore[reportUnknownArgumentType]
            closed = connections.admit(self, address)
            _close(connections, closed)
            if closed is not self:
                self._limit(request_seconds)

        def data_received(self, data: bytes) -> None:
            starts = self._reads and self._timer is None  # of a further request
            super().data_received(data)
            if not self._reads:
                return
            if self._is_whole():
                self._reads = False
                connections.is_answered(self)
                self._limit(answer_seconds)
            elif starts:
                self._limit(request_seconds)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._timer is not None and not self._reads:  # the viewer has taken some of it
                self._limit(answer_seconds)

        def on_response_complete(self) -> None:
            self._unlimit()
            self._reads = True
            connections.waits(self)
            super().on_response_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unlimit()
            connections.leave(self)
            super().connection_lost(exc)

        def _is_whole(self) -> bool:
            return self.conn.their_state not in (h11.IDLE, h11.SEND_BODY)

        def _limit(self, seconds: float) -> None:
            self._unlimit()
            self._timer = self.loop.call_later(seconds, self.transport.abort)

        def _unlimit(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Limited

"""Redirects of a server that lead into this machine's own network are refused.

Whoever serves an address that the user named may answer with a redirect. One to loopback, to a
link-local host (where clouds keep their credentials) or to a private one would fetch what only this
machine can reach. Where the named address itself is such a host, its owner may send it anywhere.
"""

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from tenner.core.errors import Problem, TennerError
from tenner.core.messages import Message, msg
from tenner.core.retry import PermanentError

if TYPE_CHECKING:
    import httpx

_NAT64 = IPv6Network("64:ff9b::/96")
"""IPv6 addresses whose last 32 bits are the IPv4 address that is embedded in them (RFC 6052)."""


@dataclass(kw_only=True)
class RedirectGuard:
    """Sees each request and answer of one download, in order. Raises `error` at a forbidden one.

    A name is judged by all addresses that it has, and again by the address that was connected to,
    as a name may have another one a moment later. Behind a proxy only the first can be known.
    """

    error: type[TennerError]
    _is_first: bool = True
    _named_inside: bool = False

    @property
    def hooks(self) -> dict[str, list[object]]:
        """For httpx.Client's `event_hooks`, which are called for each redirect too."""
        return {"request": [self.before], "response": [self.after]}

    def before(self, request: "httpx.Request") -> None:
        """Called before each request is sent."""
        inside = [is_inside(each) for each in _addresses(request.url.host)]
        if self._is_first:
            self._named_inside = bool(inside) and all(inside)
        elif any(inside) and not self._named_inside:
            raise self._refusal(request.url.host)

    def after(self, answer: "httpx.Response") -> None:
        """Called with each answer before its content is read or its redirect followed."""
        stream = answer.extensions.get("network_stream")
        peer = stream.get_extra_info("server_addr") if stream is not None else None
        if peer and not _by_proxy(answer.url):
            inside = is_inside(str(peer[0]))
            if self._is_first:
                self._named_inside = inside
            elif inside and not self._named_inside:
                raise self._refusal(answer.url.host)
        self._is_first = False

    def _refusal(self, host: str) -> TennerError:
        return self.error(_text(host), fix=_FIX)


@dataclass(frozen=True)
class ServerGuard:
    """Sees each request and answer of a client that talks to one server, such as the Hub, and
    follows where it sends on: redirects, and addresses in its answers.

    Raises PermanentError at a host of this machine's own network, unless the server itself is one.
    The client may be httpx's or that of a library which is made like it.
    """

    endpoint: str

    def before(self, request: Any) -> None:
        """Called before each request is sent."""
        host = str(request.url.host)
        if host != self._host and any(map(is_inside, _addresses(host))):
            self._refuse(host)

    def after(self, answer: Any) -> None:
        """Called with each answer before its content is read or its redirect followed."""
        host, stream = str(answer.url.host), answer.extensions.get("network_stream")
        peer = stream.get_extra_info("server_addr") if stream is not None else None
        if host != self._host and peer and not _by_proxy(answer.url) and is_inside(str(peer[0])):
            self._refuse(host)
        storage = urlsplit(str(answer.headers.get(_XET_HEADER, ""))).hostname or ""
        if storage not in {"", self._host} and any(map(is_inside, _addresses(storage))):
            self._refuse(storage)

    @cached_property
    def _host(self) -> str:
        return urlsplit(self.endpoint).hostname or ""

    @cached_property
    def _is_inside(self) -> bool:
        found = [is_inside(each) for each in _addresses(self._host)]
        return bool(found) and all(found)

    def _refuse(self, host: str) -> None:
        if not self._is_inside:
            raise PermanentError(
                Problem(text=msg("{host}: {text}", host=self._host, text=_text(host)), fix=_FIX)
            )


_XET_HEADER = "X-Xet-Cas-Url"
"""Where the Hub sends for large files; a library of its own, in Rust, connects there."""
_FIX = msg("name the file's own address; a redirect into a private network is not followed")


def _text(host: str) -> Message:
    return msg("the address redirects to {host}, a host of this machine's own network", host=host)


def is_inside(address: str) -> bool:
    """Whether an IP address is loopback, link-local, private or otherwise not of the Internet."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return any(not each.is_global or each.is_multicast for each in _embedded_addresses(found))


def _embedded_addresses(address: IPv4Address | IPv6Address) -> Iterable[IPv4Address | IPv6Address]:
    """The address, or the IPv4 addresses embedded in an IPv6 address."""
    if isinstance(address, IPv4Address):
        return [address]
    embedded = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        embedded.append(IPv4Address(int(address) & 0xFFFF_FFFF))
    return [each for each in embedded if each is not None] or [address]


def _addresses(host: str) -> list[str]:
    """The IP addresses of a name; none where it has none, or where only a proxy knows them."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(each[4][0]) for each in found]


def _by_proxy(url: "httpx.URL") -> bool:
    proxies = getproxies()
    return bool(proxies.get(url.scheme) or proxies.get("all")) and not proxy_bypass(url.host)

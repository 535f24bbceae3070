"""Redirects of a download that lead into this machine's own network are refused.

Whoever serves an address that the user named may answer with a redirect. One to loopback, to a
link-local host (where clouds keep their credentials) or to a private one would fetch what only this
machine can reach. Where the named address itself is such a host, its owner may send it anywhere.
"""

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING
from urllib.request import getproxies, proxy_bypass

from tenner.core.errors import TennerError

if TYPE_CHECKING:
    import httpx

_NAT64 = IPv6Network("64:ff9b::/96")
"""IPv6 addresses whose last 32 bits are the IPv4 address that they stand for (RFC 6052)."""


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
        return self.error(
            f"the address redirects to {host}, a host of this machine's own network",
            fix="name the file's own address; a redirect into a private network is not followed",
        )


def is_inside(address: str) -> bool:
    """Whether an IP address is loopback, link-local, private or otherwise not of the Internet."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return any(not each.is_global or each.is_multicast for each in _meant(found))


def _meant(address: IPv4Address | IPv6Address) -> Iterable[IPv4Address | IPv6Address]:
    """The address, or the IPv4 addresses that an IPv6 address stands for."""
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

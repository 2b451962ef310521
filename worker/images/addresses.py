"""Which network addresses an untrusted URL may lead to: public ones only."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from worker.images.decode import ImageError

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


async def public_addresses(host: str, port: int) -> list[str]:
    """Resolves `host` and returns its addresses, best first; the caller connects to these, not to the name,
    so that a second look-up cannot give another answer.

    Raises ImageError of kind `unreachable` for an unknown host and of kind `address` when any of its
    addresses is not public.
    """
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ImageError(f"The image's host {host} is not known here.", "unreachable") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not all(is_public(address) for address in addresses):
        raise ImageError(
            f"The image's host {host} is in a private network and images are not fetched from there; "
            "add it to FETCH_ALLOW_HOSTS if it is meant to be used.",
            "address",
        )
    return addresses


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, IPv4 inside IPv6 included.

    >>> is_public("8.8.8.8"), is_public("169.254.169.254"), is_public("::ffff:10.0.0.1")
    (True, False, False)
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast

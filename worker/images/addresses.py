"""Checks that an untrusted URL leads to public network addresses only."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from worker.images.decode import ImageError

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


async def public_addresses(host: str, port: int) -> list[str]:
    """Resolve a host that must be public.

    The caller must connect to these addresses, not to the name: a second look-up could give others.

    Args:
        host: The host's name or address.
        port: The port to connect to.

    Returns:
        Its addresses, best first.

    Raises:
        ImageError: Of kind `unreachable` for an unknown host, of kind `address` when any of its addresses is
            not public.
    """
    try:
        loop = asyncio.get_running_loop()
        entries = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ImageError(f"The image's host {host} is not known here.", "unreachable") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
    if not all(is_public(address) for address in addresses):
        raise ImageError(
            f"The image's host {host} is in a private network and images are not fetched from there; "
            "add it to FETCH_ALLOW_HOSTS if it is meant to be used.",
            "address",
        )
    return addresses


def is_public(address: str) -> bool:
    """Whether an IP address is public. IPv4 addresses embedded in IPv6 ones are checked as well.

    >>> is_public("8.8.8.8"), is_public("169.254.169.254"), is_public("::ffff:10.0.0.1")
    (True, False, False)
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(str(embedded))
    return ip.is_global and not ip.is_multicast

"""Names by which this server may be called.

A page can have its own name point to this machine (DNS rebinding); its requests then look like
those of the server's own pages. The `Host` header still has that name. An address needs no name
service, so robots that use one are never refused.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from server.settings import Settings

ANY: Final = "*"
_WILDCARD: Final = f"{ANY}."


@final
class AllowedHosts:
    """Decides by the `Host` header: addresses, `localhost`, and the names given.

    Args:
        names: host names without ports; `*.NAME` stands for all names below NAME, `*` for any.
    """

    def __init__(self, *names: str) -> None:
        self.names = tuple(dict.fromkeys(_plain(name) for name in names if name))

    def allows(self, host: str) -> bool:
        """Whether a request with this `Host` header (which may end in a port) is answered."""
        if ANY in self.names:
            return True
        name = _plain(_without_port(host))
        # Clients before HTTP/1.1 send none; browsers always do.
        return not name or _is_local(name) or any(_matches(name, given) for given in self.names)


def allowed_hosts(settings: Settings) -> AllowedHosts:
    """The machine's own names, the name the server is bound to, and those of the settings."""
    machine = socket.gethostname()
    short = machine.partition(".")[0]
    return AllowedHosts(settings.host, machine, short, f"{short}.local", *settings.allowed_hosts)


def _plain(name: str) -> str:
    return name.strip().lower().rstrip(".")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _is_local(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _matches(name: str, given: str) -> bool:
    return name.endswith(given[1:]) if given.startswith(_WILDCARD) else name == given

"""Checks for `loom doctor`: the address that peers are told, and whether its port is free."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from loom.core.addresses import format_authority
from loom.core.check import FAILURE, OK, WARNING, Check, Finding
from loom.core.control_url import parse_control_url
from loom.core.option_checks import parse_listen
from loom.core.options import FETCH_PORTS
from loom.errors import LoomError
from loom.net.listening import listen_in, own_address

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 1.5
"""Seconds for the control plane's name."""


def checks(control: str | None, listen: str | None, *, has_token: bool, allow_anonymous: bool) -> list[Check]:
    """Return the checks of uploads to peers; none without a control plane, which names peers."""
    if not control:
        return []

    def look() -> Iterator[Finding]:
        host, ports = parse_listen(listen) if listen else ("", FETCH_PORTS)
        endpoint = parse_control_url(control).endpoint
        is_named = host and not ip_address(host).is_unspecified
        shown = host if is_named else own_address(endpoint.host, endpoint.port, TIMEOUT_S)
        if not shown:
            message = f"no address of this machine leads to {endpoint.host}: peers cannot ask it"
            yield Finding(WARNING, "address", message, "name it: --listen HOST:PORT")
            return
        yield _address(shown, is_open=has_token or allow_anonymous)
        yield _port(host or shown, ports)

    return [Check("peers", "address", look)]


def _address(shown: str, *, is_open: bool) -> Finding:
    if is_open or ip_address(shown).is_loopback:
        return Finding(OK, "address", f"peers are told {shown}")
    message = f"without a token of the fleet nothing is handed to peers from {shown}"
    return Finding(WARNING, "address", message, "--token-file or LOOM_FLEET_TOKEN; or --allow-anonymous")


def _port(host: str, ports: range) -> Finding:
    try:
        with listen_in(host, ports) as listening:
            free = listening.getsockname()[1]
    except LoomError as error:
        return Finding(FAILURE, "port", error.message, error.hint)
    named = f"{ports[0]} to {ports[-1]}" if len(ports) > 1 else str(ports[0])
    return Finding(OK, "port", f"{format_authority(host, free)} is free (of {named})")

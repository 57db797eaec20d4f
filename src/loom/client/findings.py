"""Checks of the control plane by its client, for `loom doctor`: two requests are enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom import __version__
from loom.client.client import ControlClient
from loom.core.check import FAILURE, OK, WARNING, Check, Finding
from loom.core.waits import tell_offset
from loom.errors import AccessDenied, LoomError, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loom.net.tls import ClientCertificate

TIMEOUT_S = 1.8
"""Seconds for each request: a little less than a check may take."""

_NO_MODEL = "loom-doctor/no-model"


def checks(
    control: str | None, token: str | None, ca_file: str | None, certificate: ClientCertificate | None, denied_hint: str
) -> list[Check]:
    """Return the checks of the control plane; none without one. The arguments are ControlClient's."""
    if not control:
        return []

    def look() -> Iterator[Finding]:
        try:
            client = ControlClient(
                control, token=token, ca_file=ca_file, certificate=certificate, timeout_s=TIMEOUT_S,
                denied_hint=denied_hint,
            )  # fmt: skip
            yield from _ask(client, has_token=token is not None)
        except LoomError as error:
            yield Finding(FAILURE, "control plane", error.message, error.hint)

    return [Check("client", "control plane", look)]


def _ask(client: ControlClient, *, has_token: bool) -> Iterator[Finding]:
    """Raises LoomError when nothing that can be used answers."""
    version = client.version()
    same = "as this one" if version == __version__ else f"this one is {__version__}"
    yield Finding(OK, "control plane", f"{client} answers; it is Loom {version}, {same}")
    if off := tell_offset(client.clock_off_s):
        yield Finding(WARNING, "clock", off, "keep the clock with NTP: chrony, systemd-timesyncd")
    elif client.clock_off_s is not None:
        yield Finding(OK, "clock", "it agrees with the control plane's")
    yield _try_token(client, has_token=has_token)


def _try_token(client: ControlClient, *, has_token: bool) -> Finding:
    """Look a model up that no node has: a lookup wants the token. Raises LoomError."""
    try:
        client.locate(_NO_MODEL, limit=1)
    except AccessDenied as error:
        return Finding(FAILURE, "token", error.message, error.hint)
    except NotFound:
        pass
    return Finding(OK, "token", "accepted" if has_token else "none is given, and none is wanted")

"""How a test proves to a node's server that it knows the fleet's token: as a peer does, step by step."""

from __future__ import annotations

import contextlib
from http.client import HTTPConnection

from loom.core.proof import parse_challenge, prove
from loom.peers.wire import Caller, said_by

NOBODY = Caller("")


def challenge_of(authority: str, host: str = "") -> str:
    """Return a challenge of the server at `authority`; host: what it is called."""
    with contextlib.closing(HTTPConnection(authority, timeout=10)) as connection:
        connection.request("GET", "/refs/0", headers={"Host": host or authority})
        reply = connection.getresponse()
        assert reply.status == 401
        return parse_challenge(reply.headers["WWW-Authenticate"])


def proof_of(
    authority: str, target: str, token: str, span: str = "", *, caller: Caller = NOBODY, host: str = "", number: int = 1
) -> str:
    """Return the Authorization value of a request that `caller` may make once."""
    said = said_by(caller, host or authority, target, span)
    return prove(token, challenge_of(authority, host), number, said)

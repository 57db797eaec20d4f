"""The peers' protocol (loom.peers.wire) as a face of the HTTP server.

A node answers a range that it has in part with that part: Content-Range tells. A range that it does not have is a 504,
as for `only-if-cached` (RFC 9111 section 5.2.1.7): a node fetches nothing for others. Without a free slot a node
answers 503 with Retry-After.

The face knows keys and digests, no paths and no URLs. In a fleet with a token every request must prove that it knows
the token; one that does not is answered with 401 and a challenge (loom.core.proof).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from loom.core.addresses import parse_address
from loom.core.browsers import can_be_rebound, is_browser, names_its_page
from loom.core.exposition import CONTENT_TYPE
from loom.core.headers import parse_request_range
from loom.core.proof import Challenges, format_challenge
from loom.core.tokens import split_tokens
from loom.core.units import Grid, parse_bitmap, units_of
from loom.net.face import Refused, Reply, Slice, explain_in_json
from loom.peers.wire import HEALTH, METRICS, about, format_digest, format_version, parse_caller, parse_target, said_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loom.net.face import Request
    from loom.peers.shelf import Item, Shelf
    from loom.peers.wire import Caller

TELL_S = 0.3
"""Seconds for which digests are computed for one answer; at least one of them is told."""


class PeerFace:
    """Answers peers from a shelf.

    token: the fleet's, or several, one a line: a peer proves that it knows one of them. None serves every client that
    can reach it, except pages in browsers. on_visit: called on the server's thread with the key that a peer asks about,
    and with that peer, or None. It is None unless the peer introduces itself and comes from the address where it says
    that it listens. The counters may be read from any thread.
    """

    methods = frozenset(("GET",))
    max_body = 0

    def __init__(
        self,
        shelf: Shelf,
        token: str | None,
        on_visit: Callable[[str, Caller | None], None] = lambda _key, _caller: None,
    ) -> None:
        self.authority = ""
        """Our host:port as peers are told: a request with another Host field is refused. "" takes any."""
        self.served_of: Counter[str] = Counter()
        """Bytes uploaded, by the key that was asked for."""
        self.refused = 0
        """Requests whose proof was wrong: of another token, or repeated by a stranger for something else."""
        self.refused_from = ""
        """The IP address of the last one of them."""
        self.hits = self.misses = 0
        """Requests for a file that was here, and for one that was not."""
        self.show_metrics: Callable[[], bytes] | None = None
        """Returns the text of GET /metrics, for every client; None for no metrics."""
        self.asked_at = time.monotonic()
        """When a peer last asked for something."""
        self.nameless_at = float("-inf")
        """When a peer that does not listen last asked: such a peer's availability is unknown."""
        self._shelf = shelf
        self._tokens = split_tokens(token)
        self._challenges = Challenges(secrets.token_bytes(32))
        self._on_visit = on_visit
        self._hashers = ThreadPoolExecutor(2, "loom-digests")

    def close(self) -> None:
        self._hashers.shutdown(wait=False, cancel_futures=True)

    def explain(self, refused: Refused) -> Reply:
        return explain_in_json(refused)

    async def answer(self, request: Request) -> Reply:
        if request.target == HEALTH:
            return Reply(200, {}, b'{"status":"ok"}')
        if request.target == METRICS and self.show_metrics is not None:
            _refuse_pages(request.fields)
            return Reply(200, {"Content-Type": CONTENT_TYPE}, self.show_metrics())
        self._admit(request)
        match parse_target(request.target):
            case ("blob", key, _):
                return self._give(key, self._item(key), request)
            case ("have", key, _):
                return Reply(200, _about(self._item(key)))
            case ("digests", key, units):
                return await self._vouch(self._item(key), units)
            case ("reference", key, _):
                return self._tell(key)
            case _:
                raise Refused(404, "not-found")

    # Admission

    def _admit(self, request: Request) -> None:
        """Refuse a request that does not come from the fleet; note the caller."""
        if self._tokens:
            self._check_proof(request)
        else:
            _refuse_pages(request.fields)
        self._introduce(request)
        self.asked_at = time.monotonic()

    def _check_proof(self, request: Request) -> None:
        """Refuse a request that does not prove that it comes from the fleet; give out a challenge then."""
        host, now = request.get("host"), time.monotonic()
        is_ours = not self.authority or host in (self.authority, self.authority.removesuffix(":80"))
        said = said_in(request.method, request.target, request.fields)
        verdict = self._challenges.check(request.get("authorization"), self._tokens, said, now)
        if is_ours and verdict.is_proved:
            return
        if verdict.is_wrong or not is_ours:
            self.refused += 1
            self.refused_from = request.client
        challenge = self._challenges.issue(now, secrets.token_hex(8))
        raise Refused(401, "access-denied", {"WWW-Authenticate": format_challenge(challenge)})

    def _introduce(self, request: Request) -> None:
        """Note the caller, if it listens where it comes from: no request can send us to another machine."""
        caller = parse_caller(request.fields)
        if not (caller and caller.address and str(parse_address(caller.address).ip) == request.client):
            caller, self.nameless_at = None, time.monotonic()
        asked = parse_target(request.target)
        self._on_visit(asked.key if asked else "", caller)

    # Answers

    def _item(self, key: str) -> Item:
        item = self._shelf.find(key)
        if item is None:
            self.misses += 1
            raise Refused(404, "not-found")
        self.hits += 1
        return item

    def _give(self, key: str, item: Item, request: Request) -> Reply:
        """Answer a request for a range."""
        fields = _about(item)
        asked = parse_request_range(request.get("range"), item.size)
        if asked is None:
            raise Refused(416, "bad-range", fields | {"Content-Range": f"bytes */{item.size}"})
        end = item.end_from(asked.start, asked.end)
        if end <= asked.start:
            raise Refused(504, "absent", fields)
        span = {"Content-Range": f"bytes {asked.start}-{end - 1}/{item.size}",
                "Content-Type": "application/octet-stream"}  # fmt: skip
        body = Slice(item.open, asked.start, end - asked.start, partial(self._sent, key))
        return Reply(206, fields | span, body, kept=fields)

    def _sent(self, key: str, size: int) -> None:
        self.served_of[key] += size

    def _tell(self, key: str) -> Reply:
        """Tell the version of a reference."""
        found = self._shelf.find_reference(key)
        if found is None:
            raise Refused(404, "not-found")
        version_key, item = found
        return Reply(200, _about(item), format_version(version_key, item.size, item.version))

    async def _vouch(self, item: Item, units: str) -> Reply:
        """Tell digests of units."""
        try:
            asked = parse_bitmap(units, Grid(item.size))
        except ValueError:
            raise Refused(404, "not-found") from None
        lines = await asyncio.get_running_loop().run_in_executor(self._hashers, _digests, item, asked)
        return Reply(200, _about(item), "".join(lines).encode())


def _refuse_pages(fields: Mapping[str, str]) -> None:
    """Refuse a page in a browser: it is a stranger's, for we have none. A user may type our address."""
    if names_its_page(fields) or (can_be_rebound(fields.get("host", "")) and is_browser(fields)):
        raise Refused(403, "forbidden", {"Connection": "close"})


def _digests(item: Item, asked: int) -> list[str]:
    lines: list[str] = []
    began = time.monotonic()
    for unit in units_of(asked):
        if digest := item.digest(unit):
            lines.append(format_digest(unit, digest))
        if lines and time.monotonic() - began > TELL_S:
            break
    return lines


def _about(item: Item) -> dict[str, str]:
    return about(item.available(), item.size)

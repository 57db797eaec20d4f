"""The peers' protocol, both ends of the wire: a node's requests to another node, and their answers. Pure.

    GET /blobs/{key}                   a range of a file (206 may bring its beginning alone); key: a version
                                       key, or sha256:<digest>
    GET /blobs/{key}/have              the units that are there
    GET /blobs/{key}/digests/{units}   the SHA-256 of those units (a bitmap in hexadecimal) that this node vouches for,
                                       a line each: unit, blank, 64 hex digits; fewer than asked for if it takes long
    GET /refs/{key}                    the version that a reference (its key) leads to, as JSON
    GET /healthz  /metrics             a sign of life; counters for Prometheus. These need no proof

A request names its sender: Loom-Node, Loom-Identity, and Loom-Address when the sender listens. Every answer about a
file tells the units that are there (Loom-Have) and the size of the whole (Loom-Size). In a fleet with a token a request
carries a proof (loom.core.proof); a node of an older Loom proves another way, and is refused.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from loom.core.addresses import is_address
from loom.core.headers import Version
from loom.core.names import MAX_SIZE, check_identity, check_node, node_key
from loom.core.proof import Said
from loom.core.units import Availability, Grid, format_availability, parse_availability
from loom.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

HEALTH = "/healthz"
METRICS = "/metrics"

SHA256_SIZE = 32

_VALIDATOR = re.compile("[\t -~\x80-\xff]*")
"""Pattern of a reply's field (RFC 9110 section 5.5), as `loom.net.head` decodes it."""


# Requests


def keys_of(key: str, digest: str) -> tuple[str, ...]:
    """Return the keys by which peers ask for a file: its version key and, if that is known, its digest."""
    return (key, f"sha256:{digest}") if digest else (key,)


class Ask(NamedTuple):
    """The question of a target. what: "blob", "have", "digests" or "reference". units: of digests, a bitmap as text."""

    what: str
    key: str
    units: str = ""


def blob_target(key: str) -> str:
    """Return the target of a file's bytes."""
    return f"/blobs/{key}"


def have_target(key: str) -> str:
    """Return the target of the units that are there of a file."""
    return f"/blobs/{key}/have"


def digests_target(key: str, units: int) -> str:
    """Return the target of the digests of some units, a bitmap."""
    return f"/blobs/{key}/digests/{units:x}"


def reference_target(key: str) -> str:
    """Return the target of a reference's version, by its key."""
    return f"/refs/{key}"


def parse_target(target: str) -> Ask | None:
    """Return the question of a target; None for a target of another form."""
    match target.split("/"):
        case ["", "blobs", key]:
            return Ask("blob", key)
        case ["", "blobs", key, "have"]:
            return Ask("have", key)
        case ["", "blobs", key, "digests", units]:
            return Ask("digests", key, units)
        case ["", "refs", key]:
            return Ask("reference", key)
    return None


# Callers


@dataclass(frozen=True)
class Caller:
    """The sender of a request, in its own words. address: where it listens, "" for nowhere."""

    node: str
    identity: str = ""
    address: str = ""

    @property
    def key(self) -> str:
        """Its node key (loom.core.names.node_key)."""
        return node_key(self.node, self.identity)

    def fields(self) -> dict[str, str]:
        """Return the fields by which it introduces itself."""
        said = {"Loom-Node": self.node, "Loom-Identity": self.identity, "Loom-Address": self.address}
        return {name: text for name, text in said.items() if text}


def parse_caller(fields: Mapping[str, str]) -> Caller | None:
    """Return the sender of a request; None if it does not say, or if its words are not valid names.

    fields: of a request, names in lower case, values as they are on the wire (latin-1): names are sent as UTF-8.
    """
    said, address = _introduction(fields), fields.get("loom-address", "")
    with contextlib.suppress(UsageError, UnicodeError):
        caller = Caller(check_node(said.node), check_identity(said.identity), address)
        is_plain = not address or (address.startswith("http://") and is_address(address))
        return caller if is_plain else replace(caller, address="")
    return None


def _introduction(fields: Mapping[str, str]) -> Said:
    node = fields.get("loom-node", "").encode("latin-1", "replace").decode("utf-8", "surrogateescape")
    return Said("", "", node=node, identity=fields.get("loom-identity", ""), address=fields.get("loom-address", ""))


def said_by(caller: Caller, authority: str, target: str, span: str = "") -> Said:
    """Return the facts that the asker's proof covers. span: the value of its Range field, "" without one."""
    return Said(authority, target, span, caller.node, caller.identity, caller.address)


def said_in(method: str, target: str, fields: Mapping[str, str]) -> Said:
    """Return the facts that the proof in a request must cover, as they are: the words are checked later."""
    authority, span = fields.get("host", ""), fields.get("range", "")
    return _introduction(fields)._replace(authority=authority, target=target, span=span, method=method)


# Answers


def about(available: Availability, size: int) -> dict[str, str]:
    """Return the fields of every answer about a file."""
    return {"Loom-Have": format_availability(available), "Loom-Size": str(size)}


def parse_size(fields: Mapping[str, str]) -> str:
    """Return the file's size, as the answer has it. Raises KeyError."""
    return fields["loom-size"]


def parse_have(fields: Mapping[str, str], grid: Grid) -> Availability:
    """Return the availability in an answer. Raises KeyError, ValueError."""
    return parse_availability(fields["loom-have"], grid)


def format_digest(unit: int, digest: str) -> str:
    """Return the line that tells the digest of a unit."""
    return f"{unit} {digest}\n"


def parse_digests(body: bytes) -> dict[int, str]:
    """Parse lines of a unit and its digest. Raises ValueError."""
    return dict(_parse_digest(line) for line in body.decode("ascii").splitlines())


def _parse_digest(line: str) -> tuple[int, str]:
    unit, _, digest = line.partition(" ")
    sha256 = bytes.fromhex(digest)
    if len(sha256) != SHA256_SIZE:
        raise ValueError("not a digest")
    return int(unit), sha256.hex()


def format_version(key: str, size: int, version: Version) -> bytes:
    """Return the body that tells a reference's version. key: of the bytes."""
    facts = {"key": key, "size": size, "etag": version.etag, "last_modified": version.last_modified}
    return json.dumps(facts).encode()


def parse_version(body: bytes) -> Version:
    """Parse a peer's answer about a reference. Raises ValueError, LookupError, TypeError, RecursionError.

    Refused: a file without bytes, and a file without a validator: it might be another one.
    """
    facts = json.loads(body)
    version = Version(facts["size"], facts["etag"], facts["last_modified"])
    is_size = type(version.size) is int and 0 < version.size <= MAX_SIZE  # True would be one, too
    if not is_size or not version.is_known or not all(map(_VALIDATOR.fullmatch, (version.etag, version.last_modified))):
        raise ValueError("no version of a file")
    return version

"""The shared ledger's records: changes as msgpack in the stream, and the values of the hashes. Pure.

redis.lua reads and writes the same forms; it describes the hashes.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import msgspec

from loom.control.ledgers.ledger import Batch
from loom.core.changes import Beat, Ended, Holding, Left, Registered, Rejected, Withdrawn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loom.core.changes import Change


def text_of(value: bytes | None) -> str:
    """Return Redis' bytes as text, "" for None."""
    return "" if value is None else value.decode()


def _facts(it: Holding, expires_at: float | None = None) -> str:
    facts = (it.digest, it.size, it.state, it.received, it.from_origin, it.from_peers, it.address, expires_at)
    return msgspec.json.encode(facts).decode()


@functools.lru_cache(maxsize=10_000)  # a fleet has the same models on many nodes: one object serves them all
def _holding(model: str, record: str | bytes) -> tuple[Holding, float | None]:
    *facts, expires_at = msgspec.json.decode(record)
    return Holding(model, *facts), expires_at


_KINDS = frozenset("brwxl")


def pack(change: Change) -> dict[str, Any]:
    """Return a change in the script's form. None is left out: a Lua table cannot hold it."""
    facts: dict[str, Any] = {"n": change.node}
    if isinstance(change, Beat):
        facts |= {"k": "b", "a": change.address, "z": change.zone, "l": change.load, "s": change.served}
        facts |= {"e": change.expires_at, "i": _pack_inventory(change.inventory), "v": change.version or None}
    elif isinstance(change, Registered):
        facts |= {"k": "r", "a": change.address, "z": change.zone, "m": change.holding.model, "e": change.expires_at}
        facts |= {"s": change.served or None, "f": change.fetch or None, "t": _pack_end(change.ended)}
        facts["v"] = change.version or None
        facts["h"] = _facts(change.holding, change.expires_at)
    elif isinstance(change, Withdrawn):
        facts |= {"k": "w", "m": change.model, "f": change.fetch or None, "t": _pack_end(change.ended)}
    elif isinstance(change, Rejected):
        facts |= {"k": "x", "b": change.by, "e": change.expires_at}
    else:
        facts["k"] = "l"
    return {name: fact for name, fact in facts.items() if fact is not None}


def unpack_place(_: str, packed: bytes) -> dict[str, Any]:
    """Return a value of the hash `nodes`: address a, zone z, load l, served s, end of the lease e (0 for none)."""
    place = msgspec.msgpack.decode(packed, type=dict[str, Any])
    return {name: place.get(name) for name in "az"} | {"l": place["l"], "s": place["s"], "e": float(place.get("e", 0))}


def unpack_registration(name: str, record: bytes) -> tuple[str, Holding, float | None]:
    """Return node, holding and end of the lease from a field of the hash `registered`."""
    node, _, model = name.partition("\n")
    return node, *_holding(model, record)


def unpack_inventory(_: str, packed: bytes) -> tuple[Holding, ...]:
    """Return a value of the hash `inventories`."""
    return tuple(_holding(*pair)[0] for pair in msgspec.msgpack.decode(packed))


def _pack_inventory(inventory: tuple[Holding, ...] | None) -> list[tuple[str, str]] | None:
    return None if inventory is None else [(holding.model, _facts(holding)) for holding in inventory]


def _unpack(facts: dict[str, Any]) -> Change:
    node, kind, place = facts["n"], facts["k"], (facts.get("a"), facts.get("z"))
    if kind == "b":
        inventory = facts.get("i")
        held = None if inventory is None else tuple(_holding(*pair)[0] for pair in inventory)
        return Beat(node, float(facts["e"]), *place, facts["l"], facts["s"], held, facts.get("v", ""))
    if kind == "r":
        holding, expires_at = _holding(facts["m"], facts["h"])
        return Registered(
            node,
            holding,
            *place,
            expires_at,
            facts.get("s", 0),
            facts.get("f", ""),
            _unpack_end(facts.get("t")),
            facts.get("v", ""),
        )
    if kind == "x":
        return Rejected(node, facts["b"], float(facts["e"]))
    if kind == "w":
        return Withdrawn(node, facts["m"], facts.get("f", ""), _unpack_end(facts.get("t")))
    return Left(node)


def _pack_end(ended: Ended | None) -> tuple[str, float, float] | None:
    return None if ended is None else (ended.outcome, ended.elapsed_s, ended.at)


def _unpack_end(packed: Sequence[Any] | None) -> Ended | None:
    return Ended(packed[0], float(packed[1]), float(packed[2])) if packed else None


def unpack_batch(entry: tuple[bytes, dict[bytes, bytes]], own_name: str) -> Batch:
    """Return a batch of the stream, without kinds of changes that only a newer Loom knows."""
    name, fields = entry
    packed = msgspec.msgpack.decode(fields[b"b"], type=list[dict[str, Any]])
    changes = [_unpack(facts) for facts in packed if facts["k"] in _KINDS]
    return Batch(int(name.partition(b"-")[0]), changes, text_of(fields.get(b"w")) == own_name)


def beats_of(
    nodes: dict[str, dict[str, Any]], inventories: dict[str, tuple[Holding, ...]], now: float
) -> Iterator[Change]:
    """Yield the nodes whose lease has not ended, each as a heartbeat with its inventory."""
    for node, it in nodes.items():
        if it["e"] > now:
            yield Beat(node, it["e"], it["a"], it["z"], it["l"], it["s"], inventories.get(node, ()))


def registrations_of(
    nodes: dict[str, dict[str, Any]], registered: dict[str, tuple[str, Holding, float | None]], now: float
) -> Iterator[Change]:
    """Yield the registrations whose lease has not ended."""
    for node, holding, expires_at in registered.values():
        if expires_at is None or expires_at > now:
            it = nodes.get(node, {})
            yield Registered(node, holding, it.get("a"), it.get("z"), expires_at)

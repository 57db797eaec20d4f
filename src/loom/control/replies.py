"""Replies made from the fleet's values: loom.core.summaries -> loom.control.messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from loom.control.messages import FailureReply, FetchReply, HoldingReply, ModelReply, NodeReply, ReplicaReply
from loom.core.names import split_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loom.core.fetches import Failure
    from loom.core.summaries import ModelSummary, NodeSummary, Replica


def replica_json(one: Replica) -> bytes:
    """Return a replica as JSON, without the closing brace and the lease: `join_replicas` adds both."""
    it = one.holding
    reply = ReplicaReply(
        one.node, it.state, one.address, one.zone, one.load, it.digest, it.size, it.received, None, one.identity
    )
    return msgspec.json.encode(reply)[:-1]


def join_replicas(shown: Sequence[tuple[bytes, float | None]], now: float) -> msgspec.Raw:
    """Return replicas as a JSON array, each with the time that its lease has left; now: of the ledger's clock."""
    rows = [one + (b"}" if ends is None else b',"expires_in_s":%.3f}' % (ends - now)) for one, ends in shown]
    return msgspec.Raw(b"[" + b",".join(rows) + b"]")


def holding_reply(one: Replica, now: float) -> HoldingReply:
    """Return one model of a node."""
    it, left = one.holding, _left(one.expires_at, now)
    moved = it.received, it.from_origin, it.from_peers
    return HoldingReply(it.model, it.state, it.digest, it.size, *moved, left, it.address)


def node_reply(one: NodeSummary, now: float | None = None) -> NodeReply:
    """Return a node. Without `now` the lease's time left is omitted: on the live page it alone is no change."""
    left = None if now is None else _left(one.expires_at, now)
    return NodeReply(
        one.node, one.models, one.fetching, one.load, one.served, one.address, one.zone, left, one.rejected_by,
        one.identity, one.namesakes, one.version, one.failed,
    )  # fmt: skip


def model_reply(one: ModelSummary) -> ModelReply:
    """Return a model."""
    copies = None if one.copies is None else round(one.copies, 3)
    return ModelReply(one.model, one.complete, one.partial, one.digest, one.size, one.from_origin, copies)


def fetch_reply(one: Replica) -> FetchReply:
    """Return a fetch under way."""
    it = one.holding
    return FetchReply(one.node, it.model, it.received, it.size, it.from_origin, it.from_peers, one.identity)


def failure_reply(one: Failure, now: float) -> FailureReply:
    """Return a fetch that failed."""
    name, identity = split_key(one.node)
    age_s = round(max(0.0, now - one.at))
    return FailureReply(name, one.model, one.reason, age_s, one.received, one.size, identity)


def _left(expires_at: float | None, now: float) -> float | None:
    return None if expires_at is None else round(expires_at - now, 3)

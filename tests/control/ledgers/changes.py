"""Random changes, and what a fleet knows as a set that can be compared."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from loom.core.changes import Beat, Change, Holding, Left, Registered, Withdrawn
from loom.core.names import node_key

if TYPE_CHECKING:
    from loom.core.fleet import Fleet

KEYS = ("a", "b", node_key("a", "0f"), node_key("a", "1e"))
NODES = st.sampled_from(KEYS)
MODELS = ("m", "n/o", "p")
ZONES = st.sampled_from((None, "z1", "z2"))
HOLDINGS = st.builds(
    Holding,
    st.sampled_from(MODELS),
    st.none(),
    st.sampled_from((None, 10)),
    st.sampled_from(("complete", "partial")),
    st.integers(0, 10),
    st.integers(0, 50),
    st.integers(0, 50),
)
INVENTORIES = st.lists(HOLDINGS, max_size=3, unique_by=lambda it: it.model).map(tuple)
ENDS = st.integers(1, 60).map(float)

CHANGES: st.SearchStrategy[Change] = st.one_of(
    st.builds(Registered, NODES, HOLDINGS, st.sampled_from((None, "http://10.0.0.1:1")), ZONES, st.none() | ENDS),
    st.builds(Withdrawn, NODES, st.sampled_from(MODELS)),
    st.builds(Left, NODES),
    st.builds(
        Beat,
        NODES,
        ENDS,
        st.sampled_from((None, "http://10.0.0.2:2")),
        ZONES,
        st.integers(0, 70),
        st.integers(0, 99),
        st.none() | INVENTORIES,
    ),
)


def facts_of(fleet: Fleet) -> set[tuple[object, ...]]:
    return {
        (node.key, one.address, one.zone, one.load, one.holding, one.expires_at)
        for node in fleet.nodes()
        for one in fleet.inventory(node.key)
    }


def sample(count: int, wanted: int) -> list[int]:
    return random.sample(range(count), wanted)

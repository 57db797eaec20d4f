"""The plan of a measurement: scenarios, rates, and the lower bound of a swarm's time."""

from __future__ import annotations

from dataclasses import dataclass, field

NEWCOMER = "newcomer"


@dataclass(frozen=True)
class Scenario:
    """`nodes` fetch; `replicas` have the file before that and serve it; `kill` of the nodes are killed on the way."""

    name: str
    nodes: int
    text: str
    replicas: int = 0
    kill: int = 0
    kill_at: float = 0.4


SCENARIOS = (
    Scenario("cold16", 16, "16 nodes start cold together"),
    Scenario("cold32", 32, "32 nodes start cold together"),
    Scenario("kill3", 16, "16 nodes start cold together; 3 are killed (-9) when the median node has 40 %", kill=3),
    Scenario(NEWCOMER, 1, "15 nodes have the file and serve it; 1 starts cold", replicas=15),
)


@dataclass(frozen=True)
class Rates:
    """Bytes of payload per second: a node's uplink and downlink, and the origin's uplink."""

    up: float
    down: float
    origin: float


@dataclass(frozen=True)
class Plan:
    """The settings of all scenarios. Sizes are bytes; rates are those of the limiters."""

    size: int
    rates: Rates
    loom: str
    stay: bool = False
    unplug: bool = False
    timeout_s: float = 600
    options: tuple[str, ...] = field(default=())


def bound_s(size: int, rates: Rates, fetching: int, nodes: int) -> float:
    """Return the least seconds that `fetching` nodes need, with `nodes` uplinks in all beside the origin's.

    The largest of three times: the origin sends the file once; a node receives it over its downlink; all uplinks
    together send all copies. It is the fluid bound of Kumar and Ross, "Peer-assisted file distribution", 2006.
    """
    return max(size / rates.origin, size / rates.down, fetching * size / (rates.origin + nodes * rates.up))

"""Metrics for Prometheus: what the fleet has, and how the control plane fares."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from itertools import accumulate
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from loom.registry.registry import Registry
    from loom.server.routes import Route

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class _Times:
    """How long answers took: counted by bucket, the last one for what was longer still."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS_S) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_BUCKETS_S, seconds)] += 1
        self.total_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return how many took at most so long, as Prometheus wants it."""
        bounds = [*map(str, _BUCKETS_S), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


class Metrics:
    """Counts requests, and shows /metrics.

    All on one event loop: prometheus_client's own counters take a lock each, three times for every request.
    """

    def __init__(self, registry: Registry) -> None:
        self._all = CollectorRegistry()
        self._all.register(_FleetCollector(registry))
        self._all.register(self)
        self._requests: dict[tuple[Route, int], int] = defaultdict(int)
        self._times: dict[str, _Times] = defaultdict(_Times)

    def count(self, route: Route, status: int, seconds: float) -> None:
        """Count a request and the time it took; /events lasts, and is only counted."""
        self._requests[route, status] += 1
        if route.path != "/events":
            self._times[route.path].add(seconds)

    def collect(self) -> Iterator[Metric]:
        """Yield what was counted, for prometheus_client."""
        labels = ["method", "route", "status"]
        requests = CounterMetricFamily("loom_http_requests", "requests answered", labels=labels)
        for (route, status), count in self._requests.items():
            requests.add_metric([route.method, route.path, str(status)], count)
        yield requests
        times = HistogramMetricFamily("loom_http_request_seconds", "time to an answer", labels=["route"])
        for path, one in self._times.items():
            times.add_metric([path], one.buckets(), one.total_s)
        yield times

    async def show(self, _request: web.BaseRequest, _: str) -> web.Response:
        """GET /metrics."""
        return web.Response(body=generate_latest(self._all), headers={"Content-Type": CONTENT_TYPE_LATEST})


class _FleetCollector:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        fleet = self._registry.fleet
        up = not self._registry.trouble
        yield GaugeMetricFamily("loom_nodes", "nodes with a lease or a registration", len(fleet))
        yield GaugeMetricFamily("loom_models", "models that some node has", fleet.models)
        yield GaugeMetricFamily("loom_holdings", "pairs of node and model", fleet.holdings)
        yield GaugeMetricFamily(
            "loom_nodes_rejected", "nodes that others were handed wrong bytes by", len(fleet.rejections)
        )
        rejections = fleet.rejections.total
        yield CounterMetricFamily("loom_rejections", "times that a node began to reject another one", rejections)
        yield GaugeMetricFamily("loom_registry_up", "1 when the registry behind can be reached", int(up))
        fetched = CounterMetricFamily("loom_fetched_bytes", "bytes that nodes fetched, as they said", labels=["source"])
        fetched.add_metric(["origin"], fleet.totals.from_origin)
        fetched.add_metric(["peers"], fleet.totals.from_peers)
        yield fetched
        yield CounterMetricFamily(
            "loom_origin_copies", "bytes from origins in sizes of the models that they are of", fleet.totals.copies
        )
        yield CounterMetricFamily("loom_served_bytes", "bytes that nodes handed to peers", fleet.totals.served)

"""Metrics for Prometheus: the fleet's state, its fetches and bytes, and the control plane's own requests.

Gauges describe the whole fleet: every control plane of one registry shows the same. Counters count the messages that
this control plane has received since it started: add those of all control planes. docs/metrics.md lists all metrics.
"""

from __future__ import annotations

import gzip
import platform
from collections import defaultdict
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder

from loom import __version__
from loom.core.fetches import OUTCOMES, REASONS, UNSAID
from loom.core.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric

    from loom.control.registry import Registry
    from loom.control.routes import Route

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

_STREAM = "/events"
"""Path of replies that stream: their duration is no response time, so it is left out."""

_EXPECTED = (200, 503)
"""Statuses counted from zero at the start: Prometheus' rate() misses the first value of a series that appears late."""

_LEAST_GZIP = 1024
"""Bytes from which a body is compressed."""


class Metrics:
    """Counts requests, and replies to /metrics. Not thread-safe: everything happens on one event loop.

    It does not use prometheus_client's counters: they would take a lock three times for every request.
    """

    def __init__(self, registry: Registry) -> None:
        self._all = CollectorRegistry()
        self._all.register(_FleetCollector(registry))
        self._all.register(self)
        ProcessCollector(registry=self._all)
        self._requests: dict[tuple[Route, int], int] = defaultdict(int)
        self._times: dict[str, Histogram] = defaultdict(lambda: Histogram(_BUCKETS_S))

    def expect(self, routes: Iterable[Route]) -> None:
        """Have the counts of these routes begin at zero."""
        for route in routes:
            for status in _EXPECTED:
                self._requests[route, status] += 0

    def count(self, route: Route, status: int, seconds: float) -> None:
        """Count a request and the time it took."""
        self._requests[route, status] += 1
        if route.path != _STREAM:
            self._times[route.path].add(seconds)

    def collect(self) -> Iterator[Metric]:
        """Yield the counts, for prometheus_client."""
        labels = ["method", "route", "code"]
        requests = CounterMetricFamily("loom_http_requests", "Requests answered.", labels=labels)
        for (route, status), count in self._requests.items():
            requests.add_metric([route.method, route.path, str(status)], count)
        yield requests
        name = "loom_http_request_duration_seconds"
        times = HistogramMetricFamily(name, "Time from a request's head to its answer.", labels=["route"])
        for path, one in self._times.items():
            times.add_metric([path], one.buckets(), one.total_s)
        yield times

    async def show(self, request: web.BaseRequest, _: str) -> web.Response:
        """GET /metrics: in the format and the coding that the client prefers."""
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body, headers = encode(self._all), {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if len(body) >= _LEAST_GZIP and _takes_gzip(request.headers.get("Accept-Encoding", "")):
            body = gzip.compress(body, 1, mtime=0)
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)


def _takes_gzip(accepted: str) -> bool:
    """Return whether a client takes gzip (RFC 9110 section 12.5.3): named, and not with a weight of zero."""
    for one in accepted.lower().split(","):
        coding, _, weight = one.partition(";")
        if coding.strip() in ("gzip", "x-gzip"):
            return weight.replace(" ", "").removeprefix("q=").strip("0.") != "" or not weight
    return False


class _FleetCollector:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "loom_build", "The Loom that runs.", {"version": __version__, "python": platform.python_version()}
        )
        yield from self._state()
        yield from self._bytes()
        yield from self._fetches()

    def _state(self) -> Iterator[Metric]:
        fleet = self._registry.fleet
        yield GaugeMetricFamily("loom_nodes", "Nodes with a lease or a registration.", len(fleet))
        yield GaugeMetricFamily("loom_nodes_of_one_name", "Nodes that share their name with another.", fleet.namesakes)
        yield GaugeMetricFamily("loom_models", "Models that at least one node has.", fleet.models)
        yield GaugeMetricFamily("loom_holdings", "Pairs of a node and a model that it has.", fleet.holdings)
        yield GaugeMetricFamily("loom_fetches_running", "Fetches under way.", fleet.partials)
        yield GaugeMetricFamily(
            "loom_rejected_nodes", "Nodes reported by others for serving corrupt data lately.", len(fleet.rejections)
        )
        yield CounterMetricFamily(
            "loom_rejections", "Times that a node reported another one for corrupt data.", fleet.rejections.total
        )
        yield GaugeMetricFamily(
            "loom_registry_up", "1 when the registry behind can be written.", int(not self._registry.trouble)
        )

    def _bytes(self) -> Iterator[Metric]:
        heard = self._registry.fleet.heard
        fetched = CounterMetricFamily("loom_fetched_bytes", "Bytes that nodes downloaded.", labels=["source"])
        fetched.add_metric(["origin"], heard.from_origin)
        fetched.add_metric(["peers"], heard.from_peers)
        yield fetched
        yield CounterMetricFamily(
            "loom_origin_copies", "Downloads from origins, in full copies of the model.", heard.copies
        )
        yield CounterMetricFamily("loom_served_bytes", "Bytes that nodes uploaded to peers.", heard.served)

    def _fetches(self) -> Iterator[Metric]:
        counts = self._registry.fleet.fetches.counts
        yield CounterMetricFamily("loom_fetches_started", "Fetches that were first heard of.", counts.started)
        finished = CounterMetricFamily("loom_fetches_finished", "Fetches that got their file.", labels=["outcome"])
        for outcome in OUTCOMES:
            finished.add_metric([outcome], counts.finished[outcome])
        yield finished
        failed = CounterMetricFamily("loom_fetches_failed", "Fetches that failed and said so.", labels=["reason"])
        for reason in (*REASONS, UNSAID):
            failed.add_metric([reason], counts.failed[reason])
        yield failed
        yield CounterMetricFamily("loom_fetches_lost", "Fetches whose lease ended first.", counts.lost)
        times = HistogramMetricFamily("loom_fetch_duration_seconds", "Time that ended fetches took, also failed ones.")
        times.add_metric([], counts.seconds.buckets(), counts.seconds.total_s)
        yield times

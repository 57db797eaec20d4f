"""Metrics for Prometheus: what the fleet has, and how the control plane fares."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp.typedefs import Handler, Middleware
    from prometheus_client.core import Metric

    from loom.registry.registry import Registry

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """Counts requests, and shows /metrics."""

    def __init__(self, registry: Registry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations
        self._all = CollectorRegistry()
        self._all.register(_FleetCollector(registry))
        self._requests = Counter(
            "loom_http_requests", "requests answered", ["method", "route", "status"], registry=self._all
        )
        self._seconds = Histogram(
            "loom_http_request_seconds", "time to an answer", ["route"], buckets=_BUCKETS_S, registry=self._all
        )

    def middleware(self) -> Middleware:
        """Return the middleware that counts requests and the time they take; /events lasts, and is only counted."""

        @web.middleware
        async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
            started = time.perf_counter()
            response = await handler(request)
            resource = request.match_info.route.resource
            route = "(none)" if resource is None else resource.canonical
            self._requests.labels(request.method if resource else "(any)", route, str(response.status)).inc()
            if route != "/events":
                self._seconds.labels(route).observe(time.perf_counter() - started)
            return response

        return count

    async def show(self, _request: web.Request) -> web.Response:
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

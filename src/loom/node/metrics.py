"""A node's metrics for Prometheus, at /metrics of the port that peers ask."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from loom import __version__
from loom.core.exposition import Family, counter, gauge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loom.net.http_server import HttpServer
    from loom.node.shelf import Stock
    from loom.peers.face import PeerFace


def node_metrics(
    server: HttpServer,
    face: PeerFace,
    stock: Stock,
    heard_at: float,
    started_at: float,
    clock_off_s: float | None,
    *,
    is_known: bool,
) -> Iterator[Family]:
    """Yield the metrics of a node.

    heard_at: when the control plane last took a heartbeat, started_at: of this process; seconds since 1970. is_known:
    whether the control plane took the last heartbeat. clock_off_s: by how much our clock is ahead of its own, if known.
    """
    yield gauge("loom_build_info", "Version of Loom that runs here; the value is always 1.", 1,
                {"version": __version__, "python": platform.python_version()})  # fmt: skip
    yield gauge("process_start_time_seconds", "Start time of the process since the Unix epoch, in seconds.", started_at)
    yield counter("loom_node_served_bytes_total", "Bytes handed to peers.", server.served)
    answered = tuple(({"code": str(code)}, count) for code, count in sorted(dict(server.answered).items()))
    yield Family("loom_node_requests_total", "counter", "Requests answered, by HTTP status code.", answered)
    yield counter("loom_node_refused_requests_total", "Requests that prove no token of the fleet.", face.refused)
    lookups = (({"result": "hit"}, face.hits), ({"result": "miss"}, face.misses))
    yield Family("loom_node_lookups_total", "counter", "Files asked for by peers, in the cache or not.", lookups)
    yield gauge("loom_node_uploads", "Uploads to peers under way.", server.load)
    text = "Most uploads at once; beyond them peers are told to come back."
    yield gauge("loom_node_upload_slots", text, server.bounds.slots)
    yield gauge("loom_node_cache_blobs", "Files in the cache that some reference leads to.", stock.blobs)
    yield gauge("loom_node_cache_bytes", "Bytes in these files.", stock.size)
    yield gauge("loom_node_models", "Models that the node offers to peers.", stock.offered)
    yield gauge("loom_node_registered", "1 when the control plane took the last heartbeat.", int(is_known))
    if heard_at:
        text = "Time since the Unix epoch when the control plane last took a heartbeat, in seconds."
        yield gauge("loom_node_last_heartbeat_timestamp_seconds", text, heard_at)
    if clock_off_s is not None:
        text = "Seconds by which this machine's clock is ahead of the control plane's."
        yield gauge("loom_node_clock_offset_seconds", text, clock_off_s)

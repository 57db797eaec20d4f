"""Measure what the limited links really carry, with one plain HTTP connection to each node."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

from bench.swarm.network import Namespace, Network
from bench.swarm.origin import SwarmOrigin
from bench.swarm.plan import Rates

SECONDS = 3.0
LEAD_S = 1.5  # for the processes to start and for TCP to get going

# Counts the payload that one connection brings between two moments, the same for all that run together.
DRAIN = """
import http.client, sys, time
host, port, path, start, end = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4]), float(sys.argv[5])
connection, buffer, reply = http.client.HTTPConnection(host, port), bytearray(1 << 16), None
count, now = 0, 0
while now < end:
    if reply is None or not (got := reply.readinto1(buffer)):
        connection.request("GET", "/" + path)
        reply = connection.getresponse()
        continue
    now = time.monotonic()
    if now >= start:
        count += got
print(count / (now - start))
"""


def calibrate(rates: Rates, model: Path, work: Path) -> Rates:
    """Return the rates of payload that links have which are limited to `rates`."""
    receivers = math.ceil(rates.origin / rates.down) + 1
    with Network() as network:
        place = network.add("origin", up=rates.origin)
        nodes = [network.add(f"n{number}", up=rates.up, down=rates.down) for number in range(receivers)]
        far = network.add("far")
        with SwarmOrigin(network, place, model.parent, work / "origin") as origin:
            (down,) = _drain(network, nodes[:1], origin.place, model.name)
            together = _drain(network, nodes, origin.place, model.name)
        with SwarmOrigin(network, nodes[0], model.parent, work / "node") as origin:
            (up,) = _drain(network, [far], origin.place, model.name)
    return Rates(up, down, sum(together))


def _drain(network: Network, nodes: list[Namespace], source: Namespace, path: str) -> list[float]:
    start = time.monotonic() + LEAD_S
    when = [str(start), str(start + SECONDS)]
    command = [sys.executable, "-c", DRAIN, source.host, str(SwarmOrigin.PORT), path, *when]
    running = [network.start(node, command, out=subprocess.PIPE) for node in nodes]
    return [float(process.communicate(timeout=60)[0]) for process in running]

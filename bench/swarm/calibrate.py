"""Measure the real rates of the limited links, with one plain HTTP connection to each node."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

from bench.swarm.network import Namespace, Network, SwarmUnavailable
from bench.swarm.origin import SwarmOrigin
from bench.swarm.plan import Rates

SECONDS = 3.0
TRIES = 3
TOLERANCE = 0.03
LEAD_S = 1.5  # for the processes to start and for TCP to get going

# Counts the payload of one connection between two times, the same for all connections.
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
    """Return the measured payload rates of links that are limited to `rates`.

    Raises SwarmUnavailable when the machine is too busy: too low a rate would make the bound too easy.
    """
    for number in range(TRIES):
        found = _measure(rates, model, work / str(number))
        pairs = [(found.up, rates.up), (found.down, rates.down), (found.origin, rates.origin)]
        if all(abs(real / limit - 1) <= TOLERANCE for real, limit in pairs):
            return found
    told = ", ".join(f"{real / 1e6:.2f} instead of {limit / 1e6:.2f} MB/s" for real, limit in pairs)
    raise SwarmUnavailable(f"links carry {told}: this machine is too busy (load {os.getloadavg()[0]:.0f}), or too slow")


def _measure(rates: Rates, model: Path, work: Path) -> Rates:
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

"""Draw a run as an SVG that is readable on light and on dark paper: progress of every node, and copies over time.

No plotting library is used: two panels of lines need none, and matplotlib cannot write colours that follow the reader's
colour scheme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.swarm.play import Run
from bench.swarm.report import thin

WIDTH, HEIGHT = 960, 400
TOP, BOTTOM, LEFT, GAP = 58, 48, 56, 76
PANEL = (WIDTH - LEFT - GAP - 24) // 2

STYLE = """
svg { color-scheme: light dark; font: 13px system-ui, sans-serif; }
.paper { fill: #ffffff; } text { fill: #1f2328; } .dim { fill: #59636e; }
.grid { stroke: #d1d9e0; stroke-width: 1; } .line { fill: none; stroke-width: 1.4; stroke-linejoin: round; }
.node { stroke: #0969da; opacity: 0.55; } .dead { stroke: #cf222e; } .origin { stroke: #8250df; stroke-width: 2; }
.bound { stroke: #1a7f37; stroke-width: 1.6; stroke-dasharray: 6 4; } .boundtext { fill: #1a7f37; }
.deadtext { fill: #cf222e; }
@media (prefers-color-scheme: dark) {
  .paper { fill: #0d1117; } text { fill: #f0f6fc; } .dim { fill: #9198a1; } .grid { stroke: #3d444d; }
  .node { stroke: #58a6ff; } .dead { stroke: #ff7b72; } .origin { stroke: #bc8cff; }
  .bound { stroke: #3fb950; } .boundtext { fill: #3fb950; } .deadtext { fill: #ff7b72; }
}
"""


@dataclass(frozen=True)
class Panel:
    """A part of the picture: its left end, and the ends of its axes."""

    left: float
    title: str
    xmax: float
    ymax: float
    unit: str = ""

    def x(self, value: float) -> float:
        return self.left + PANEL * value / self.xmax

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self.ymax


def draw(run: Run, size: int) -> str:
    """Return the picture of one run of a file of `size` bytes."""
    trace = thin(run.trace)
    end = max(run.slowest_s, run.bound_s, trace.times[-1]) * 1.04
    most = max((100 * series[-1] / size for series in trace.received.values()), default=100)
    progress = Panel(LEFT, "what each node has received", end, max(108, most * 1.04), " %")
    origin = [sent / size for sent in trace.origin]
    copies = Panel(LEFT + PANEL + GAP, "sent by the origin, in copies", end, max(1.0, *origin) * 1.15)
    killed = {node.name for node in run.nodes if node.killed}
    parts = [*_axes(progress), *_axes(copies), *_bound(progress, run.bound_s), *_bound(copies, run.bound_s)]
    for name, series in trace.received.items():
        points = [(at, 100 * got / size) for at, got in zip(trace.times, series, strict=True)]
        parts.append(_curve(progress, points, "dead" if name in killed else "node"))
    parts.append(_curve(copies, list(zip(trace.times, origin, strict=True)), "origin"))
    text = (
        f"{run.scenario}: slowest node {run.slowest_s:.1f} s, bound {run.bound_s:.1f} s, ratio "
        f"{run.slowest_s / run.bound_s:.2f}; {run.copies:.2f} copies from the origin"
    )
    if killed:
        parts.append(f'<text class="deadtext" x="{WIDTH - 24}" y="22" text-anchor="end">red: killed</text>')
    return "\n".join([_open(text), *parts, "</svg>"]) + "\n"


def _open(text: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{escape(text)}">\n<style>{STYLE}</style>\n'
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>\n<text x="{LEFT}" y="22">{escape(text)}</text>'
    )


def _axes(panel: Panel) -> list[str]:
    low, right = HEIGHT - BOTTOM, panel.left + PANEL
    parts = [f'<text class="dim" x="{panel.left}" y="{TOP - 12}">{panel.title}</text>']
    for value in steps(panel.ymax):
        y = panel.y(value)
        parts.append(f'<line class="grid" x1="{panel.left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="dim" x="{panel.left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}{panel.unit}</text>'
        )
    for value in steps(panel.xmax):
        x = panel.x(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{low}" x2="{x:.1f}" y2="{low + 5}"/>')
        parts.append(f'<text class="dim" x="{x:.1f}" y="{low + 20}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text class="dim" x="{right}" y="{low + 38}" text-anchor="end">seconds</text>')
    return parts


def _bound(panel: Panel, bound_s: float) -> list[str]:
    x = panel.x(bound_s)
    return [
        f'<line class="bound" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}"/>',
        f'<text class="boundtext" x="{x - 5:.1f}" y="{TOP + 12}" text-anchor="end">bound</text>',
    ]


def _curve(panel: Panel, points: Sequence[tuple[float, float]], kind: str) -> str:
    path = " ".join(f"{panel.x(x):.1f},{panel.y(y):.1f}" for x, y in points)
    return f'<polyline class="line {kind}" points="{path}"/>'


def steps(most: float) -> list[float]:
    """Return 4 to 10 round numbers from 0 up to `most`."""
    unit: float = 10.0 ** math.floor(math.log10(most))
    step = next(step for step in (unit / 5, unit / 2, unit, unit * 2) if most / step <= 10)
    return [round(number * step, 6) for number in range(int(most / step) + 1)]

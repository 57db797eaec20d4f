"""Bytes as a fluid: flows from uplinks to downlinks, in virtual time.

All flows of a link share it in equal parts, and what one cannot use the others get: max-min fairness, as many TCP
connections come near to it. Time moves in steps; within one, rates do not change, and they are reckoned again only
when flows have come or gone.
"""

from __future__ import annotations

ROUNDS = 4
"""How often what is left over is shared once more: the rest is below a hundredth of a link."""

_FULL = 1e3  # bytes per second below which a link counts as full


class Link:
    """One direction of a machine's network. rate: bytes per second."""

    __slots__ = ("count", "left", "open", "rate", "share")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.count = 0
        self.left = self.share = 0.0
        self.open = 0


class Flow:
    """`size` bytes on their way, from `begins_at` on. `got` is what has come and was not taken out yet."""

    __slots__ = ("begins_at", "down", "got", "is_over", "rate", "size", "up")

    def __init__(self, up: Link, down: Link, size: int, begins_at: float) -> None:
        self.up = up
        self.down = down
        self.size = size
        self.begins_at = begins_at
        self.got = self.rate = 0.0
        self.is_over = False

    def take(self) -> int:
        """Take out the whole bytes that have come."""
        size = min(int(self.got), self.size)
        self.got -= size
        self.size -= size
        return size


class Fluid:
    """All flows that there are."""

    def __init__(self) -> None:
        self._flows: list[Flow] = []
        self._links: set[Link] = set()
        self._is_stale = False

    def __len__(self) -> int:
        return len(self._flows)

    def add(self, flow: Flow) -> None:
        """Let a flow begin."""
        self._flows.append(flow)
        for link in (flow.up, flow.down):
            link.count += 1
            self._links.add(link)
        self._is_stale = True

    def end(self, flow: Flow) -> None:
        """End a flow; ending it twice does no harm."""
        if not flow.is_over:
            flow.is_over = self._is_stale = True
            for link in (flow.up, flow.down):
                link.count -= 1
                if not link.count:
                    self._links.discard(link)

    def move(self, now: float, step_s: float) -> list[Flow]:
        """Let `step_s` seconds pass, up to `now`; return the flows that have brought all that they were to bring."""
        if self._is_stale:
            self._flows = [flow for flow in self._flows if not flow.is_over]
            self._share()
            self._is_stale = False
        since = now - step_s
        for flow in self._flows:
            flow.got += flow.rate * (step_s if flow.begins_at <= since else max(0.0, now - flow.begins_at))
        return [flow for flow in self._flows if flow.got >= flow.size]

    def _share(self) -> None:
        """Give every flow an equal part of its uplink or of its downlink, whichever is less; then share what is left
        over among those for which there is something left at both ends.
        """
        for link in self._links:
            link.left, link.open = link.rate, link.count
        for flow in self._flows:
            flow.rate = 0.0
        flows = self._flows
        for _ in range(ROUNDS):
            for link in self._links:
                link.share = link.left / link.open if link.open else 0.0
                link.open = 0
            for flow in flows:
                up, down = flow.up, flow.down
                more = min(down.share, up.share)
                flow.rate += more
                up.left -= more
                down.left -= more
            flows = [flow for flow in flows if flow.up.left > _FULL and flow.down.left > _FULL]
            for flow in flows:
                flow.up.open += 1
                flow.down.open += 1

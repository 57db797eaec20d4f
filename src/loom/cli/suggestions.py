"""Suggestions for unknown words of a command line. Pure.

Rule: a wrong suggestion costs more than none. Only a word that is one typing error away is suggested. Words that start
a server, make a node leave, or open a door never are: a reader may run the command of a hint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_NEVER = frozenset(("control", "node", "withdraw", "serve", "allow-anonymous", "allow-redirect-to", "allow-cidr"))
"""Words that start a server, make a node leave the fleet, or open a door."""

_NO_INSECURE = "certificates are always verified: --ca-file FILE names an authority of your own to trust"
_EXPLAINED = {
    "--insecure": _NO_INSECURE,
    "-k": _NO_INSECURE,
    "--no-check-certificate": _NO_INSECURE,
    "--no-verify": _NO_INSECURE,
    "--no-verify-ssl": _NO_INSECURE,
    "--insecure-skip-tls-verify": _NO_INSECURE,
    "--check-certificate": _NO_INSECURE,
    "--cacert": "write --ca-file FILE",
    "--ca-certificate": "write --ca-file FILE",
    "--private-key": "write --key FILE",
    "--proxy": "a proxy is read from HTTPS_PROXY, HTTP_PROXY and NO_PROXY",
}
"""Flags of curl, wget, aria2 and kubectl that Loom has under another name, or has not on purpose."""


def explain(flag: str) -> str:
    """Return the hint for a flag that other tools have; "" for an unknown flag."""
    return _EXPLAINED.get(flag, "")


def nearest(word: str, candidates: Iterable[str]) -> str:
    """Return the candidate that is one typing error away from `word`, "" when there is none or several are."""
    bare = _bare(word)
    far = 1 if len(bare) < 6 else 2
    near = sorted(
        (distance, candidate)
        for candidate in candidates
        if _bare(candidate) not in _NEVER and (distance := _distance(bare, _bare(candidate))) <= far
    )
    if not near:
        return _by_prefix(bare, candidates)
    is_clear = len(near) == 1 or near[0][0] < near[1][0]
    return near[0][1] if is_clear else ""


def _by_prefix(bare: str, candidates: Iterable[str]) -> str:
    """Return the only candidate that `word` begins with, or that begins with it: --output for --out."""
    starts = [
        candidate
        for candidate in candidates
        if _bare(candidate) not in _NEVER
        and min(len(bare), len(_bare(candidate))) >= 3
        and (bare.startswith(_bare(candidate)) or _bare(candidate).startswith(bare))
    ]
    return starts[0] if len(starts) == 1 else ""


def _bare(word: str) -> str:
    return word.lstrip("-").replace("_", "-").lower()


def _distance(one: str, other: str) -> int:
    """Return how many letters are to be changed, added, left out or swapped with their neighbour."""
    rows = [list(range(len(other) + 1))]
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]

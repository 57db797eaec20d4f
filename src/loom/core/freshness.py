"""Freshness: whether the origin is asked if what the cache holds is still what the URL names, and how patiently."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loom.core.options import Options
    from loom.core.reference import Reference

PATIENCE_S = 2.0
"""Seconds that the origin has to answer a BRIEF question: name, connection, redirects and the head of its answer."""

CACHED_BELOW_S = 600
"""Seconds since an answer left the origin (its Age) that are not worth a word: GitHub caches raw files for 300."""


class Question(Enum):
    """What is asked of the origin about a file that the cache holds.

    NONE: nothing. BRIEF: one request of PATIENCE_S; without an answer the cached file is used, and the receipt says so.
    FIRM: with all the patience of a fetch; without an answer the fetch fails.
    """

    NONE = "none"
    BRIEF = "brief"
    FIRM = "firm"


class Checked(Enum):
    """How it is known that a file is what its URL names now; the values stand in receipts.

    ORIGIN: the origin said so in this fetch, or sent it. DIGEST: the caller named its digest. IMMUTABLE: the URL names
    a commit, a digest or one version. TRUSTED: the origin was not asked. NO_ANSWER: it was asked and did not answer.
    """

    ORIGIN = "origin"
    DIGEST = "digest"
    IMMUTABLE = "immutable"
    TRUSTED = "trusted"
    NO_ANSWER = "no answer"


def question_about(reference: Reference, options: Options, age_s: float) -> Question:
    """Return what to ask about a cached file of that reference. age_s: seconds since the origin was last asked."""
    if options.offline or options.sha256 is not None:
        return Question.NONE
    if options.revalidate:
        return Question.FIRM
    if reference.is_immutable:
        return Question.NONE
    if options.max_age_s is not None:
        return Question.NONE if 0 <= age_s <= options.max_age_s else Question.FIRM
    return Question.BRIEF if reference.is_moving else Question.NONE


def checked_unasked(reference: Reference, options: Options) -> Checked:
    """Return how it is known that a hit is right when the origin was not asked."""
    if options.sha256 is not None:
        return Checked.DIGEST
    return Checked.IMMUTABLE if reference.is_immutable else Checked.TRUSTED

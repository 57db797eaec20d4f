"""Freshness: decides whether the origin is asked if a cached file is still current, and how long it may take."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loom.core.options import Options
    from loom.core.reference import Reference

PATIENCE_S = 2.0
"""Seconds that the origin has for a BRIEF question: name, connection, redirects and the head of its reply."""

CACHED_BELOW_S = 600
"""Seconds of a reply's Age (time since it left the origin) below which no warning is given: GitHub's raw files: 300."""


class Question(Enum):
    """The question to the origin about a cached file.

    NONE: no question. BRIEF: one request of at most PATIENCE_S; without a reply the cached file is used, and the
    receipt says so. FIRM: a request with all retries of a fetch; without a reply the fetch fails.
    """

    NONE = "none"
    BRIEF = "brief"
    FIRM = "firm"


class Checked(Enum):
    """Why a file counts as current. The values are in receipts.

    ORIGIN: the origin confirmed it in this fetch, or sent it. DIGEST: the caller gave its digest. IMMUTABLE: the URL
    names a commit, a digest or one version. TRUSTED: the origin was not asked. NO_ANSWER: it was asked and did not
    reply.
    """

    ORIGIN = "origin"
    DIGEST = "digest"
    IMMUTABLE = "immutable"
    TRUSTED = "trusted"
    NO_ANSWER = "no answer"


def question_about(reference: Reference, options: Options, age_s: float) -> Question:
    """Return the question about a cached file of that reference. age_s: seconds since the origin was last asked."""
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
    """Return why a hit counts as current when the origin was not asked."""
    if options.sha256 is not None:
        return Checked.DIGEST
    return Checked.IMMUTABLE if reference.is_immutable else Checked.TRUSTED

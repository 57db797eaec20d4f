"""Whether the origin is asked about what the cache holds."""

from __future__ import annotations

import pytest

from loom.core.freshness import Checked, Question, checked_unasked, question_about
from loom.core.options import Options
from loom.core.reference import parse_reference

PLAIN = "https://h/m.gguf"
MOVING = "https://h/o/r/resolve/main/m.gguf"
FIXED = f"https://h/o/r/resolve/{'ab' * 20}/m.gguf"
NONE, BRIEF, FIRM = Question.NONE, Question.BRIEF, Question.FIRM


@pytest.mark.parametrize(
    ("choices", "age_s", "plain", "moving", "fixed"),
    [
        ({}, 1e9, NONE, BRIEF, NONE),
        ({}, 0, NONE, BRIEF, NONE),
        ({"revalidate": True}, 0, FIRM, FIRM, FIRM),
        ({"max_age_s": 60}, 30, NONE, NONE, NONE),
        ({"max_age_s": 60}, 90, FIRM, FIRM, NONE),
        ({"max_age_s": 0}, 1, FIRM, FIRM, NONE),
        ({"max_age_s": 60}, -3600, FIRM, FIRM, NONE),
        ({"offline": True, "revalidate": True}, 1e9, NONE, NONE, NONE),
        ({"offline": True, "max_age_s": 0}, 1e9, NONE, NONE, NONE),
        ({"sha256": "ab" * 32, "revalidate": True}, 1e9, NONE, NONE, NONE),
    ],
)
def test_what_is_asked(choices, age_s, plain, moving, fixed) -> None:
    """A moving URL is asked about briefly unless the user has said when to ask; an age of the future is none."""
    options = Options(**choices)
    assert [question_about(parse_reference(url), options, age_s) for url in (PLAIN, MOVING, FIXED)] == [
        plain,
        moving,
        fixed,
    ]


def test_how_an_unasked_hit_is_known() -> None:
    """The receipt tells a digest and a URL that cannot change from what was merely believed."""
    assert checked_unasked(parse_reference(PLAIN), Options()) is Checked.TRUSTED
    assert checked_unasked(parse_reference(MOVING), Options(offline=True)) is Checked.TRUSTED
    assert checked_unasked(parse_reference(FIXED), Options()) is Checked.IMMUTABLE
    assert checked_unasked(parse_reference(PLAIN), Options(sha256="ab" * 32)) is Checked.DIGEST

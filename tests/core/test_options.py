"""What a caller may choose."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import loom
from loom.core.option_checks import parse_listen
from loom.core.options import MAX_CHUNK_SIZE, MAX_WORKERS, MIN_CHUNK_SIZE, Options, check_call, check_file
from loom.errors import UsageError

SECRET = "s3cr3tXYZ"


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("workers", 1, MAX_WORKERS),
        ("chunk_size", MIN_CHUNK_SIZE, MAX_CHUNK_SIZE),
        ("retries", 0, 100),
        ("backoff_s", 0, 3600),
        ("timeout_s", 0.001, 86400),
    ],
)
def test_bounds(name: str, low: float, high: float) -> None:
    """The bounds themselves are allowed, what lies beyond is refused by name; so is what is no number."""
    assert getattr(Options(**{name: low}), name) == low
    assert getattr(Options(**{name: high}), name) == high
    for value in (low - 1, high + 1, math.nan, math.inf, -math.inf, True, None, "5"):
        with pytest.raises(UsageError, match=name):
            Options(**{name: value})


@pytest.mark.parametrize("name", ["workers", "chunk_size", "retries"])
def test_what_is_counted_is_whole(name: str) -> None:
    """There are no halves of workers, bytes and tries."""
    with pytest.raises(UsageError, match="whole"):
        Options(**{name: 65536.5 if name == "chunk_size" else 1.5})


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "ä", "a\0", "\tx"])
def test_names_of_headers(name: str) -> None:
    """A name that would break the request's head is refused."""
    with pytest.raises(UsageError, match="not a header name"):
        Options(headers={name: "x"})


@given(st.text("ab \t", max_size=4), st.sampled_from("\r\n\0"), st.text("ab \t", max_size=4))
def test_header_injection(before: str, breaks: str, after: str) -> None:
    """No value can begin a line of its own; the error does not repeat it."""
    with pytest.raises(UsageError) as caught:
        Options(headers={"X-Key": SECRET + before + breaks + after})
    assert SECRET not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("name", ["Host", "RANGE", "If-Range", "Accept-Encoding", "connection", "Content-Length"])
def test_headers_that_the_engine_sets(name: str) -> None:
    """What a fetch cannot work with otherwise is not for callers to set."""
    with pytest.raises(UsageError, match="set by Loom itself"):
        Options(headers={name: "x"})


@pytest.mark.parametrize("token", ["", " ", "a\nb", "tökén", "a\0b", "a\x7f"])
def test_tokens_that_no_header_can_carry(token: str) -> None:
    """A token is printable ASCII; the error does not repeat it."""
    with pytest.raises(UsageError, match="token") as caught:
        Options(token=SECRET + token if token.strip() else token)
    assert SECRET not in str(caught.value)


def test_the_token_wins_over_a_header() -> None:
    """--token replaces an Authorization header, whatever its case; other headers stay."""
    options = Options(headers={"AUTHORIZATION": "Basic x", "X-Y": "z"}, token="t")
    assert options.request_headers() == {"X-Y": "z", "Authorization": "Bearer t"}
    assert Options(headers={"a": "b"}).request_headers() == {"a": "b"}


def test_secrets_are_not_shown() -> None:
    """Neither headers nor the token stand in what a log would print."""
    assert SECRET not in repr(Options(headers={"X-Key": SECRET}, token=SECRET))


@pytest.mark.parametrize("text", ["ab" * 32, "AB" * 32, "sha256:" + "ab" * 32, f" {'ab' * 32}\n"])
def test_digests_are_normalised(text: str) -> None:
    """However a publisher writes it, a digest is 64 small hexadecimal digits."""
    assert Options(sha256=text).sha256 == "ab" * 32


@pytest.mark.parametrize("text", ["", "ab", "xy" * 32, "md5:" + "ab" * 32, "ab" * 33, "²" * 64])
def test_what_is_no_digest(text: str) -> None:
    """Anything else is refused, before a byte is fetched."""
    with pytest.raises(UsageError, match="64 hexadecimal"):
        Options(sha256=text)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Options)])
@pytest.mark.parametrize("value", [object(), [7], b"x", SECRET.encode()])
def test_what_is_of_another_kind(field: str, value: object) -> None:
    """Every field refuses what is not of its kind, by its name as Python spells it, and never shows a secret."""
    with pytest.raises(UsageError, match=f"^{field}= ") as caught:
        Options(**{field: value})
    if field in ("headers", "token", "control_token"):
        assert SECRET not in caught.value.message


@pytest.mark.parametrize("headers", [{1: "a"}, {"a": 1}, {"a": None}, None, [("a", "b")], "a: b"])
def test_headers_are_a_mapping_of_texts(headers: object) -> None:
    """Anything else is refused before it is sent."""
    with pytest.raises(UsageError, match=r"^headers="):
        Options(headers=headers)


def test_paths_may_be_paths() -> None:
    """What is a file or a folder may come as any kind of path."""
    assert Options(cache=Path("a"), ca_file=Path("b"), control_ca_file=Path("c"))


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ((5, None, None), "url= must be text, not int"),
        ((SECRET.encode(), None, None), "url= must be text, not bytes"),
        (("http://h/x", 3, None), "out= must be a path, not int"),
        (("http://h/x", b"x", None), "out= must be a path, not bytes"),
        (("http://h/x", "", None), "out= is empty"),
        (("http://h/x", None, 5), "on_progress= must be a function, not int"),
    ],
)
def test_what_a_fetch_cannot_be_called_with(words: tuple[object, object, object], what: str) -> None:
    """A mistake in a call is told in Loom's own error, by the name of the argument."""
    with pytest.raises(UsageError, match=what):
        check_call(*words)


def test_every_choice_is_documented() -> None:
    """What may be chosen about a fetch stands in the docstring of Options, to which that of loom.fetch leads."""
    words = set(re.findall(r"\w+", Options.__doc__ or ""))
    assert "loom.Options" in (loom.fetch.__doc__ or "")
    assert [field.name for field in dataclasses.fields(Options) if field.name not in words] == []


@pytest.mark.parametrize(("text", "host", "ports"), [
    ("10.0.0.5:3001", "10.0.0.5", range(3001, 3002)), (":3002-3100", "", range(3002, 3101)), (":0", "", range(1)),
    ("[::]:5-5", "::", range(5, 6)),
])  # fmt: skip
def test_where_to_listen(text: str, host: str, ports: range) -> None:
    """A port, or a range that a firewall can be told."""
    assert parse_listen(text) == (host, ports)


@pytest.mark.parametrize(
    "text", ["", "1", "h:1", ":", ":-", ":1-", ":-1", ":2-1", ":0-9", ":1-65536", ":1-2-3", ":\u0663"]
)
def test_where_it_is_not_to_listen(text: str) -> None:
    """Whatever is no port and no range is refused."""
    with pytest.raises(UsageError):
        parse_listen(text)


def test_a_file_is_not_called_like_a_folder() -> None:
    """`-o models/` is for whole models alone."""
    with pytest.raises(UsageError, match="models/ names a folder"):
        check_file("models/")
    check_file("models/x")

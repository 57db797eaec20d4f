"""URLs are checked, taken apart, and never shown with their secrets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loom.core.urls import Endpoint, is_same_endpoint, join_url, parse_url, redact
from loom.errors import UsageError

SECRET = "s3cr3tXYZ"
HARMLESS = st.text("abcdefgh0123456789-_.~", max_size=8)
PLACES = (
    "https://u:{0}@h/x", "https://{0}@h/x", "https://u:{0}@/x", "https://u:p@{0}@h/x", "ftp://u:{0}@h/x", "//u:{0}@h/x",
    "u:{0}@h/x", "{0}:@h/x", "https:/u:{0}@h/x", "https://u:{0}/a@h/x", "https://u:{0}#a@h/x", "https://u:{0}?a@h/x",
    "https://u:{0}@h:port/x", "https://u:{0}@[bad/x", "https://u:{0}@ho\u2100st/x", "https://u:{0}/a @h/x",
    "https://h/x?{0}", "https://h/x?a=1&{0}", "https://h/x?sig={0}", "https://h/x?=%00{0}", "https://h/x?a={0};b={0}",
    "https://h/x#{0}", "https://h/x y?sig={0}", "hf://org/repo?token={0}", "https://h:99999/x?k={0}",
)  # fmt: skip
ODD = "ab./\\: \0\n\r\x1b\x7f\x85\xa0\u200b\u202e\u2028ä中😀\ud800\udc80"


@pytest.mark.parametrize(
    ("text", "endpoint", "target"),
    [
        ("http://Host/a", Endpoint("http", "host", 80), "/a"),
        ("https://h:8443", Endpoint("https", "h", 8443), "/"),
        ("http://[::1]:81/x?y=1#f", Endpoint("http", "::1", 81), "/x?y=1"),
        ("http://h/ä%20b", Endpoint("http", "h", 80), "/%C3%A4%20b"),
        ("http://bücher.example/", Endpoint("http", "xn--bcher-kva.example", 80), "/"),
    ],
)
def test_urls_are_taken_apart(text, endpoint, target) -> None:
    """Host in lower case (IDNA where needed), the scheme's port, the target percent-encoded once."""
    url = parse_url(text)
    assert (url.endpoint, url.target) == (endpoint, target)


def test_the_authority_is_what_the_host_header_wants() -> None:
    """The port stands there only when it is not the scheme's own; IPv6 is bracketed."""
    assert [parse_url(u).endpoint.authority for u in ("http://h:80/", "https://h:80/", "http://[::1]/")] == [
        "h",
        "h:80",
        "[::1]",
    ]


@pytest.mark.parametrize(
    "text", ["", "model", "h/x", "ftp://h/x", "http://", "http:///x", "http://h:port/", "http://h:99999/", "http://[::",
             "http://h/a b", "http://h/\n", "http://h/\ud800", "hf://org/repo", "file:///etc/passwd", f"htp://u:{SECRET}@h/?k={SECRET}"]
)  # fmt: skip
def test_what_cannot_be_asked_for_is_refused(text) -> None:
    """A clear error, and no secret in it."""
    with pytest.raises(UsageError) as caught:
        parse_url(text)
    assert SECRET not in caught.value.message + caught.value.hint


@given(HARMLESS, HARMLESS, HARMLESS)
def test_redaction_leaks_nothing(path, name, tail) -> None:
    """Neither user info nor a query's value is ever shown, whatever surrounds it."""
    url = f"https://user:{SECRET}@host/{path}?X-{name}={SECRET}&{tail}{SECRET}=1{SECRET}#f{SECRET}"
    assert SECRET not in redact(url).replace(f"{tail}{SECRET}=", "")
    assert SECRET not in str(parse_url(f"https://u:{SECRET}@host/{path}?k{name}={SECRET}"))


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=12)
@given(secret=st.text("abcXYZ0189-_~.%", min_size=6, max_size=20).map(lambda text: "q" + text))
def test_no_secret_gets_out(place, secret) -> None:
    """Wherever a secret stands in what a user typed, no error and no log line repeats it."""
    text = place.format(secret)
    try:
        shown = str(parse_url(text))
    except UsageError as error:
        shown = error.message + error.hint
    assert secret.lower() not in shown.lower()


@pytest.mark.parametrize(
    ("location", "host", "target"),
    [
        ("/modèle.gguf", "h", "/mod%C3%A8le.gguf"),
        ("/mod%C3%A8le.gguf", "h", "/mod%C3%A8le.gguf"),
        ("/%E8?a=%2F%26&b=ü", "h", "/%E8?a=%2F%26&b=%C3%BC"),
        ("/a b", "h", "/a%20b"),
        ("?x=1", "h", "/a/b?x=1"),
        ("../c/./d", "h", "/c/d"),
        ("https://bücher.example/x", "xn--bcher-kva.example", "/x"),
        ("https://[fd00::1]:8080/x", "fd00::1", "/x"),
        ("/x\r\nSet-Cookie: a", "h", "/xSet-Cookie:%20a"),
    ],
)
def test_odd_locations(location, host, target) -> None:
    """What a server wrote raw is encoded, what it encoded is left alone, and nothing breaks the request's line."""
    url = join_url(parse_url("http://h:81/a/b"), location)
    assert (url.endpoint.host, url.target) == (host, target)


@given(st.text(ODD + "%[]@?#", max_size=30))
def test_any_location_is_a_url_or_a_clear_error(location) -> None:
    """Whatever a server sends, the request's line stays one line of ASCII."""
    try:
        target = join_url(parse_url("http://h/a"), location).target
    except UsageError:
        return
    assert target.isascii()
    assert target.startswith("/")
    assert not any(c <= " " for c in target)


def test_user_info_is_decoded() -> None:
    """Credentials are what was meant, not how it was written."""
    url = parse_url("https://us%40er:p%3Aw%2F@h/x")
    assert (url.username, url.password) == ("us@er", "p:w/")
    assert (parse_url("https://h/").username, parse_url("https://h/").password) == (None, None)


def test_redaction_keeps_what_helps() -> None:
    """Host, path and harmless parameters stay, so that people can tell which URL it was."""
    assert redact("https://u:p@h:1/a/m.gguf?versionId=3&X-Sig=abc") == "https://h:1/a/m.gguf?versionId=3&X-Sig=***"
    assert redact("https://h/x?abc") == "https://h/x?***"


@pytest.mark.parametrize(
    ("location", "whole"),
    [
        ("/x", "http://h:81/x"),
        ("x", "http://h:81/a/x"),
        ("//other/x", "http://other/x"),
        ("https://o/x?a=%2F", "https://o/x?a=***"),
        (" /x ", "http://h:81/x"),
        ("/%C3%A4", "http://h:81/%C3%A4"),
    ],
)
def test_redirects_are_resolved(location, whole) -> None:
    """Relative, absolute and already encoded places are resolved as a browser would."""
    assert str(join_url(parse_url("http://h:81/a/b"), location)) == whole


def test_endpoints_differ_by_scheme_host_and_port() -> None:
    """Only the same three are the same place for headers."""
    one = parse_url("http://h/a")
    assert is_same_endpoint(one, parse_url("http://H:80/b"))
    assert not any(is_same_endpoint(one, parse_url(u)) for u in ("https://h/", "http://h:81/", "http://i/"))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("s3://bucket/key", "aws s3 presign"),
        ("S3://bucket/key", "aws s3 presign"),
        ("gs://bucket/key", "https://storage.googleapis.com/"),
        ("az://container/name", "blob.core.windows.net"),
        ("ftp://host/file", "https://host/path"),
    ],
)
def test_schemes_of_other_tools(text: str, hint: str) -> None:
    """What Loom does not fetch is said so plainly, with how to name the same thing by https."""
    with pytest.raises(UsageError, match="is not a scheme that Loom fetches") as caught:
        parse_url(text)
    assert hint in caught.value.hint

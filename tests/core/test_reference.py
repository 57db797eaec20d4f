"""References: what a user typed is read once, and the value tells what is needed of it."""

from __future__ import annotations

import dataclasses

import pytest

from loom.core.keys import reference_key
from loom.core.options import Options
from loom.core.reference import parse_reference
from loom.errors import UsageError

SECRET = "s3cr3tXYZ"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SIGNED = f"https://b.s3.amazonaws.com/a%20b.gguf?X-Amz-Algorithm=A&X-Amz-Signature={SECRET}&versionId=2"


def test_what_a_reference_tells() -> None:
    """Place, key, name and model are read from the text; the key is the one that a cache hit computes by itself."""
    one = parse_reference(f"https://u:{SECRET}@Host:8443/org/m.gguf?rev=1#f")
    assert (one.endpoint.host, one.endpoint.port, one.name) == ("host", 8443, "m.gguf")
    assert (one.stable, one.shown) == ("https://host:8443/org/m.gguf?rev=1", "https://Host:8443/org/m.gguf?rev=1")
    assert one.key == reference_key(one.stable)
    assert one.model == f"host:8443/org/m.gguf@{one.key[:12]}"
    assert not one.is_immutable
    assert parse_reference(f"https://h/o/r/resolve/{COMMIT}/f").is_immutable


def test_a_reference_never_shows_its_secrets() -> None:
    """Neither its text for debugging nor what is shown to people repeats user info or a signature."""
    for text in (SIGNED, f"https://u:{SECRET}@h/x", f"https://h/x?token={SECRET}"):
        one = parse_reference(text)
        assert SECRET not in repr(one) + one.shown + one.model
    assert parse_reference(SIGNED).name == "a b.gguf"


def test_a_reference_is_frozen() -> None:
    """Nothing changes it once it is read."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse_reference("http://h/m").key = ""


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_url(text: str) -> None:
    """An unset variable is told for what it is."""
    with pytest.raises(UsageError, match="the URL is empty") as caught:
        parse_reference(text)
    assert "variable" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "is_hub"),
    [("org/model", True), ("org/model/resolve/main/f.gguf", True), ("host.example/f", False), ("/models/f", False),
     ("./f", False), ("../org/f", False), ("model", False), ("host:80/f", False), ("org/", False), ("~/m", False)],
)  # fmt: skip
def test_a_hubs_name_for_a_model(text: str, is_hub: bool) -> None:
    """The hint for ORG/MODEL is the command that fetches it."""
    with pytest.raises(UsageError) as caught:
        parse_reference(text)
    assert caught.value.hint.endswith("loom fetch hf://org/model") == is_hub


@pytest.mark.parametrize("text", ["", "model", "ftp://h/x", "http://h/a b"])
def test_what_is_no_reference(text: str) -> None:
    """What cannot be asked for is refused where it is read."""
    with pytest.raises(UsageError):
        parse_reference(text)


@pytest.mark.parametrize(
    ("url", "choices", "audience"),
    [
        ("https://h/m", {"cert": "client.pem"}, "fleet"),
        ("https://h/m", {}, "anyone"),
        ("https://h/m?download=true&revision=v1", {}, "anyone"),
        ("https://h/m#user@x", {}, "anyone"),
        ("https://h/m@2", {}, "anyone"),
        ("https://h/m", {"token": "t"}, "fleet"),
        ("https://h/m", {"headers": {"X-Key": "k"}}, "fleet"),
        ("https://u@h/m", {}, "fleet"),
        ("https://h/m?key=k", {}, "fleet"),
        (SIGNED, {}, "fleet"),
        (SIGNED, {"private": True}, "nobody"),
        ("https://h/m", {"private": True}, "nobody"),
    ],
)
def test_who_may_have_what_was_fetched(url, choices, audience) -> None:
    """What only a credential opened is for the fleet alone: a signature in the URL is one."""
    assert Options(**choices).audience(parse_reference(url)) == audience

"""Command lines that are wrong: what is guessed, and what is never repeated."""

from __future__ import annotations

import pytest

from loom.cli.parser import config_parser, fetch_parser, main_parser, no_such_command, parse
from loom.errors import UsageError


def _refusal(parser, arguments) -> UsageError:
    with pytest.raises(UsageError) as caught:
        parse(parser, arguments)
    return caught.value


@pytest.mark.parametrize(
    "arguments",
    [
        ["https://h/x", "--tokn", "s3cret"],
        ["https://h/x", "--tokn=s3cret"],
        ["https://h/x", "--headr", "Authorization: Bearer s3cret"],
        ["https://h/x", "-ts3cret"],
        ["https://h/x", "-qs3cret"],
        ["https://h/x", "--json=s3cret"],
    ],
)
def test_a_refused_command_line_is_not_repeated(arguments) -> None:
    """Behind a mistyped flag may stand a token, behind a second URL of the first form a signature."""
    for parser in (fetch_parser(), main_parser()):
        error = _refusal(parser, arguments)
        assert "s3cret" not in error.message + error.hint
    assert "s3cret" not in _refusal(main_parser(), ["--url", "https://h/x", "https://h/y?sig=s3cret"]).message


@pytest.mark.parametrize(
    "word", ["https://user:s3cret@h/x", "https://h/x?sig=s3cret", "h/x?sig=s3cret", "u:s3cret@h/x"]
)
def test_a_url_in_a_commands_place_is_not_repeated_with_its_secrets(word) -> None:
    """The hint says `loom fetch URL`, and quotes the URL only when there is nothing to hide."""
    error = no_such_command(word)
    assert error.message == "a URL is not a command"
    assert error.hint == "did you mean `loom fetch URL`?"
    assert no_such_command("https://h/x").hint == "did you mean `loom fetch https://h/x`?"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--wrkers", "3", "https://h/x"], "there is no flag --wrkers", "did you mean --workers?"),
        (["--versio"], "there is no flag --versio", "see `loom fetch --help`"),
        (["-V"], "there is no flag -V", "see `loom fetch --help`"),
        (["--workers"], "--workers wants a value", "see `loom fetch --help`"),
        (["-o"], "--out wants a value", "see `loom fetch --help`"),
    ],
)
def test_mistakes_get_a_hint(arguments, message, hint) -> None:
    """A mistyped flag is told, with a guess, before anything that is missing because of it."""
    error = _refusal(fetch_parser(), arguments)
    assert (error.message, error.hint) == (message, hint)


def test_the_version_is_a_flag() -> None:
    """Who asks for it as a command is told."""
    assert no_such_command("version").hint == "did you mean `loom --version`?"


def test_a_command_behind_flags_is_told_to_come_first() -> None:
    """`loom --workers 3 fetch URL` is no riddle."""
    error = _refusal(main_parser(), ["--workers", "3", "fetch", "https://h/x"])
    assert error.hint == "write: loom fetch ..."


@pytest.mark.parametrize(
    "arguments",
    [
        ["U", "-o", "F", "-q"],
        ["-o", "F", "U", "-q"],
        ["-q", "-o", "F", "U"],
        ["-q", "-oF", "--", "U"],
    ],
)
def test_the_url_may_stand_anywhere(arguments) -> None:
    """Flags may come before and after it."""
    raw = parse(fetch_parser(), arguments)
    assert (raw["url"], raw["out"], raw["quiet"]) == (["U"], "F", True)


def test_several_urls_with_flags_between_them() -> None:
    """All words that are no flags are URLs."""
    raw = parse(fetch_parser(), ["U", "-o", "F", "V", "-q", "W"])
    assert (raw["url"], raw["out"], raw["quiet"]) == (["U", "V", "W"], "F", True)


def test_config_takes_no_arguments() -> None:
    """A stray word after `loom config` is an error."""
    assert "too many" in _refusal(config_parser(), ["x"]).message


@pytest.mark.parametrize(
    ("flag", "guess"),
    [
        ("--wrkers", "--workers"), ("--sha265", "--sha256"), ("--tokne", "--token"), ("--output", "--out"),
        ("--certificate", "--cert"), ("--cache-dir", "--cache"), ("--no-cahe", "--no-cache"), ("--worker", "--workers"),
        ("--serv", ""), ("--server", ""), ("--allow-anonymou", ""), ("--verbatim", ""), ("--recursive", ""),
        ("--e", ""),
    ],
)  # fmt: skip
def test_only_what_is_near_is_suggested(flag, guess) -> None:
    """A slip of the finger is guessed at; what starts a server or opens a door is not, however near it is."""
    hint = _refusal(fetch_parser(), ["https://h/x", flag]).hint
    assert hint == (f"did you mean {guess}?" if guess else "see `loom fetch --help`")


@pytest.mark.parametrize("flag", ["--insecure", "-k", "--no-check-certificate", "--insecure=true"])
def test_why_there_is_no_insecure(flag) -> None:
    """Who is used to it from other tools is told how to trust an authority."""
    assert "--ca-file FILE" in _refusal(fetch_parser(), ["https://h/x", flag]).hint


@pytest.mark.parametrize(
    ("word", "guess"), [("fech", "fetch"), ("nods", "nodes"), ("lcoate", "locate"), ("contol", ""), ("run", "")]
)
def test_only_near_commands_are_suggested(word, guess) -> None:
    """A command that starts something is never what a mistyped word is turned into."""
    assert no_such_command(word).hint == (f"did you mean `loom {guess}`?" if guess else "see `loom --help`")

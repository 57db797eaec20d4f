"""The table of flags, and settings resolved from it."""

from __future__ import annotations

import dataclasses

import pytest

from loom.cli.flags import ALL_FLAGS, SETTINGS
from loom.cli.settings import config_path, options_of, read_config, resolve, service_links
from loom.cli.values import format_whole_size, parse_size
from loom.core.options import Options
from loom.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("10MB", 10_000_000),
        ("10M", 10_000_000),
        ("64KiB", 65536),
        ("1 GB", 10**9),
        ("1.5kB", 1500),
        ("7", 7),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes_are_parsed(text: str, size: int) -> None:
    """Decimal and binary units, with and without blanks, mean what they say."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "10XB", "ten", "1e400GB", "-"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """Anything else is a ValueError that shows how sizes are written."""
    with pytest.raises(ValueError, match="a size such as"):
        parse_size(text)


@pytest.mark.parametrize("size", [10_000_000, 65536, 10**9, 12345, 1500])
def test_whole_sizes_are_read_back(size: int) -> None:
    """What help shows as a default is what a user may type."""
    assert parse_size(format_whole_size(size)) == size


def test_every_option_has_a_flag() -> None:
    """No field of loom.Options is out of the command line's reach, and no flag sets a field that is not there."""
    fields = {field.name for field in dataclasses.fields(Options)} - {"control_token"}  # comes from --token-file
    assert {flag.field for flag in ALL_FLAGS if flag.field} == fields


def test_defaults_are_those_of_the_library() -> None:
    """The command and the library agree on what happens when nobody says anything."""
    settings = resolve({}, {}, {}, "config.toml")
    assert Options(**options_of(settings)) == Options()


def test_a_service_link_is_no_setting() -> None:
    """What Kubernetes sets beside a Service called loom-listen is not read as a port; a wrong port is still told."""
    link = {"LOOM_LISTEN_PORT": "tcp://10.96.0.12:80"}
    port = resolve({}, link, {}, "c.toml")["port"]
    assert (port.value, port.source, service_links(link)) == (3000, "default", ["LOOM_LISTEN_PORT"])
    assert resolve({"port": "1"}, link, {}, "c.toml")["port"].value == 1
    for wrong in ("tcp://", "tcp://10.96.0.12", "http://10.96.0.12:80", "x"):
        with pytest.raises(UsageError, match="LOOM_LISTEN_PORT"):
            resolve({}, {"LOOM_LISTEN_PORT": wrong}, {}, "c.toml")


def test_flag_beats_environment_beats_file_beats_default() -> None:
    """Each value comes from the most specific place, and says which that was."""
    config = {"workers": 2, "retries": 2, "timeout": 2}
    environ = {"LOOM_WORKERS": "3", "LOOM_RETRIES": "3"}
    settings = resolve({"workers": "4"}, environ, config, "c.toml")
    seen = {
        name: (settings[name].value, settings[name].source) for name in ("workers", "retries", "timeout", "backoff")
    }
    assert seen == {
        "workers": (4, "--workers"),
        "retries": (3, "LOOM_RETRIES"),
        "timeout": (2.0, "c.toml: timeout"),
        "backoff": (2.0, "default"),
    }


def test_headers_come_as_lines_and_arrays() -> None:
    """A list is several flags, several lines in the environment, an array in the file."""
    for given, environ, config in (
        ({"header": ["A: 1", "B: 2"]}, {}, {}),
        ({}, {"LOOM_HEADER": "A: 1\nB: 2\n"}, {}),
        ({}, {}, {"header": ["A: 1", "B: 2"]}),
    ):
        assert options_of(resolve(given, environ, config, "c"))["headers"] == {"A": "1", "B": "2"}


@pytest.mark.parametrize(
    ("given", "environ", "config", "place"),
    [
        ({"workers": "0"}, {}, {}, "--workers"),
        ({}, {"LOOM_WORKERS": "many"}, {}, "LOOM_WORKERS"),
        ({}, {}, {"chunk_size": "1"}, "c.toml: chunk_size"),
        ({}, {}, {"chunk-size": "1"}, "c.toml: chunk-size"),
        ({}, {}, {"wrokers": 4}, "c.toml"),
        ({}, {"LOOM_QUIET": "perhaps"}, {}, "LOOM_QUIET"),
        ({"header": ["no colon"]}, {}, {}, "--header"),
    ],
)
def test_errors_name_the_place(given: dict, environ: dict, config: dict, place: str) -> None:
    """A bad value is a UsageError that says where it stands."""
    with pytest.raises(UsageError, match=place):
        resolve(given, environ, config, "c.toml")


def test_secrets_are_never_shown() -> None:
    """Neither `loom config` nor an error about a malformed header shows a secret's value."""
    settings = resolve({"token": "s3cret", "header": ["X-Key: s3cret"]}, {}, {}, "c")
    assert "s3cret" not in settings["token"].shown() + settings["header"].shown()
    with pytest.raises(UsageError) as caught:
        resolve({"header": ["s3cret"]}, {}, {}, "c")
    assert "s3cret" not in caught.value.message + caught.value.hint


def test_the_file_is_found_where_it_should_be(tmp_path) -> None:
    """--config, then LOOM_CONFIG, then XDG_CONFIG_HOME, then ~/.config; only a named file must exist."""
    environ = {"LOOM_CONFIG": "b", "XDG_CONFIG_HOME": "/x", "HOME": "/h"}
    assert config_path("a", environ) == ("a", "--config")
    assert config_path(None, environ) == ("b", "LOOM_CONFIG")
    assert config_path(None, {"XDG_CONFIG_HOME": "/x"}) == ("/x/loom/config.toml", "default")
    assert config_path(None, {"HOME": "/h"}) == ("/h/.config/loom/config.toml", "default")
    assert config_path(None, {}) == ("", "default")
    assert read_config("", must_exist=False) == {}
    assert read_config(str(tmp_path / "none"), must_exist=False) == {}
    with pytest.raises(UsageError, match="no settings file"):
        read_config(str(tmp_path / "none"), must_exist=True)


def test_a_default_file_out_of_reach_is_no_file(monkeypatch) -> None:
    """A container that runs as another user with HOME=/root still fetches; a file that was named must be readable."""

    def refuse(*_args, **_more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert read_config("/root/.config/loom/config.toml", must_exist=False) == {}
    with pytest.raises(UsageError, match=r"cannot read mine\.toml: permission denied"):
        read_config("mine.toml", must_exist=True)


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        ({"token": True}, "c.toml: token cannot be true or false"),
        ({"token": ["s3cret"]}, "c.toml: token cannot be an array"),
        ({"ca_file": True}, "c.toml: ca_file cannot be true or false"),
        ({"workers": True}, "c.toml: workers cannot be true or false"),
        ({"workers": 2.5}, "c.toml: workers wants a whole number, not '2.5'"),
        ({"workers": [1, 2]}, "c.toml: workers cannot be an array"),
        ({"quiet": 3}, "c.toml: quiet cannot be a number"),
        ({"header": {"X-Key": "s3cret"}}, "c.toml: header cannot be a table"),
        ({"header": [3]}, "c.toml: header cannot be a number"),
        ({"fetch": {"workers": 3}}, "c.toml: there is no setting 'fetch'"),
        ({"out": "x"}, "c.toml: out belongs to one call"),
        ({"url": "https://h/x"}, "c.toml: url belongs to one call"),
    ],
)
def test_values_of_the_wrong_type_are_refused(config: dict, wrong: str) -> None:
    """What TOML made of a line is never turned into text and sent."""
    with pytest.raises(UsageError) as caught:
        resolve({}, {}, config, "c.toml")
    assert caught.value.message.startswith(wrong)
    assert "s3cret" not in caught.value.message + caught.value.hint


def test_the_types_of_toml_are_taken() -> None:
    """Numbers, sizes, switches and text may be written as TOML has them, or as text."""
    config = {"workers": 3, "timeout": 5, "backoff": 0.5, "chunk-size": 65536, "quiet": True, "token": "t"}
    settings = resolve({}, {}, config, "c")
    assert [settings[name.replace("-", "_")].value for name in config] == [3, 5.0, 0.5, 65536, True, "t"]
    assert resolve({}, {}, {"chunk_size": "1MB", "quiet": "no"}, "c")["chunk_size"].value == 10**6


def test_a_mistyped_key_gets_a_guess() -> None:
    """An unknown key in the file names the one that was probably meant."""
    with pytest.raises(UsageError) as caught:
        resolve({}, {}, {"wrokers": 3}, "c")
    assert caught.value.hint == "did you mean workers?"


@pytest.mark.parametrize(
    ("line", "reason"), [(b"workers 16", "Expected '='"), (b"workers = 16 \xff", "it is not UTF-8")]
)
def test_a_file_that_is_not_toml_is_a_clear_error(tmp_path, line, reason) -> None:
    """The error names the file and what is wrong with it."""
    path = tmp_path / "config.toml"
    path.write_bytes(line)
    with pytest.raises(UsageError, match=rf"config\.toml is not TOML: {reason}"):
        read_config(str(path), must_exist=True)


def test_names_and_variables_are_unique() -> None:
    """No two settings share a flag, a letter or a variable."""
    flags = ALL_FLAGS
    for names in ([f.name for f in flags], [f.short for f in flags if f.short], [f.variable for f in SETTINGS]):
        assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("given", "environ", "config", "message"),
    [
        ({"workers": "0"}, {}, {}, "--workers must be a whole number from 1 to 1,024, not 0"),
        ({}, {"LOOM_WORKERS": "0"}, {}, "LOOM_WORKERS must be a whole number from 1 to 1,024, not 0"),
        ({}, {}, {"workers": 0}, "c.toml: workers must be a whole number from 1 to 1,024, not 0"),
        ({"workers": ""}, {}, {}, "--workers is empty"),
        ({"timeout": "0"}, {}, {}, "--timeout must be between 0.001 and 86,400, not 0"),
        ({"listen": "x"}, {}, {}, "--listen: 'x' is not an IP address and a port"),
        ({"token": " "}, {}, {}, "--token is empty or holds characters that a header cannot carry"),
        ({}, {"LOOM_HEADER": "Host: x"}, {}, "LOOM_HEADER: 'Host' is set by Loom itself"),
    ],
)
def test_errors_spell_a_setting_as_the_user_did(given, environ, config, message) -> None:
    """What is out of bounds is named as a flag, a variable or a line of the file: wherever it came from."""
    with pytest.raises(UsageError) as caught:
        resolve(given, environ, config, "c.toml")
    assert caught.value.message == message
    assert caught.value.hint


def test_neither_network_nor_cache() -> None:
    """--offline and --no-cache contradict each other; the error spells them as they were given."""
    settings = resolve({"offline": True}, {"LOOM_NO_CACHE": "1"}, {}, "c.toml")
    with pytest.raises(UsageError, match="--offline and LOOM_NO_CACHE leave nowhere") as caught:
        options_of(settings)
    assert "drop LOOM_NO_CACHE" in caught.value.hint


def test_a_folder_as_settings_file(tmp_path) -> None:
    """It is told with what to check."""
    with pytest.raises(UsageError, match="is a directory") as caught:
        read_config(str(tmp_path), must_exist=True)
    assert "--config" in caught.value.hint

"""From raw arguments to settings: flags > LOOM_* > file > default, each value with where it came from; and how this
call speaks.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loom.cli.flags import (
    ALL_FLAGS,
    CONFIG,
    JSON,
    OUT,
    SETTINGS,
    URL,
    Flag,
    parse_toml,
    parse_value,
)
from loom.cli.suggestions import nearest
from loom.cli.values import format_whole_size, parse_rate, parse_size
from loom.cli.variables import is_service_link
from loom.core.options import CERTIFICATES, check_option, key_without_certificate, no_way_at_all
from loom.core.tokens import MAX_TOKENS, are_tokens, split_tokens
from loom.errors import UsageError
from loom.store.cache import user_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loom.net.tls import ClientCertificate


@dataclass
class Voice:
    """How this call speaks: `as_json` is known for good once the settings are, but errors may come before."""

    as_json: bool


@dataclass(frozen=True)
class Setting:
    """A value, and where it came from: "--workers", "LOOM_WORKERS", "config.toml: workers" or "default"."""

    flag: Flag
    value: Any
    source: str = "default"

    def shown(self) -> str:
        """Return the value for people; secrets are blanked out, the names of secret headers are not."""
        if self.value is None or self.value == ():
            return "-"
        if self.flag.is_list:
            return ", ".join(f"{one[0]}: ***" if self.flag.is_secret else one for one in self.value)
        if self.flag.is_secret:
            return "***"
        if self.flag.parse in (parse_size, parse_rate):
            return format_whole_size(self.value)
        if isinstance(self.value, float):
            return f"{self.value:g}"
        return str(self.value).lower() if isinstance(self.value, bool) else f"{self.value}"


def read_settings(raw: Mapping[str, Any], voice: Voice) -> dict[str, Setting]:
    """Return all settings; the file itself is among them, None when there is none."""
    path, named_by = config_path(raw.get("config"), os.environ)
    config = read_config(path, must_exist=named_by != "default")
    voice.as_json = bool(resolve_one(JSON, raw, os.environ, config, path).value)
    settings = resolve(raw, os.environ, config, path)
    return settings | {"config": Setting(CONFIG, path if os.access(path, os.R_OK) else None, named_by)}


def config_path(given: str | None, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the settings file's path, "" for none, and where it is named: "--config", "LOOM_CONFIG" or "default".

    A file that is named must exist; the default one need not.
    """
    if given:
        return given, "--config"
    if named := environ.get("LOOM_CONFIG"):
        return named, "LOOM_CONFIG"
    folder = user_folder("config", environ)
    return f"{folder}/config.toml" if folder else "", "default"


def read_config(path: str, *, must_exist: bool) -> dict[str, Any]:
    """Return the content of the file. Raises UsageError when it cannot be read or is not TOML."""
    try:
        with open(path, "rb") as file:
            return _parse_toml(file.read(), path)
    except (FileNotFoundError, NotADirectoryError):
        if not must_exist:
            return {}
        raise UsageError(f"there is no settings file {path}", "check --config and LOOM_CONFIG") from None
    except OSError as error:
        if not must_exist and isinstance(error, PermissionError):
            return {}  # a container that runs as another user often still has HOME=/root
        raise UsageError(
            f"cannot read {path}: {str(error.strerror).lower()}", "check --config and LOOM_CONFIG"
        ) from error


def _parse_toml(text: bytes, path: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise UsageError(f"{path} is not TOML: {reason}", "write lines such as: workers = 16") from error


def resolve(
    given: Mapping[str, Any], environ: Mapping[str, str], config: Mapping[str, Any], path: str
) -> dict[str, Setting]:
    """Return every setting by name. `given` are the raw values of flags. Raises UsageError, naming the place."""
    known = {flag.name: flag for flag in ALL_FLAGS}
    environ = {name: text for name, text in environ.items() if not is_service_link(name, text)}
    for key in config:
        _check_key(({"url": URL, "out": OUT} | known).get(key.replace("-", "_")), key, path)
    settings = {name: resolve_one(flag, given, environ, config, path) for name, flag in known.items()}
    for setting in settings.values():
        _check_bounds(setting)
    return settings


def service_links(environ: Mapping[str, str]) -> list[str]:
    """Return the variables that have a setting's name and are Kubernetes' own: they are not read."""
    names = (flag.variable for flag in SETTINGS)
    return [name for name in names if is_service_link(name, environ.get(name, ""))]


def _check_key(flag: Flag | None, key: str, path: str) -> None:
    if flag is None:
        close = nearest(key, [one.name for one in SETTINGS])
        hint = f"did you mean {close}?" if close else "`loom config` lists them all"
        raise UsageError(f"{path}: there is no setting {key!r}", hint)
    if flag.scope != "settings":
        raise UsageError(f"{path}: {key} belongs to one call, not to a file", f"give it as {flag.option}")


def resolve_one(
    flag: Flag, given: Mapping[str, Any], environ: Mapping[str, str], config: Mapping[str, Any], path: str
) -> Setting:
    """Return one setting from the most specific place that has it. Raises UsageError, naming the place."""
    raw = given.get(flag.name)
    if raw not in (None, False, []):
        return _parse(flag, raw, flag.option)
    if flag.variable and (text := environ.get(flag.variable, "")):
        lines = [line for line in text.splitlines() if line.strip()]
        return _parse(flag, lines if flag.is_list else text, flag.variable)
    for key in (flag.name, flag.name.replace("_", "-")):
        if flag.scope == "settings" and key in config:
            return _parse_line(flag, config[key], f"{path}: {key}")
    return Setting(flag, flag.default)


def _parse(flag: Flag, raw: Any, source: str) -> Setting:
    """Parse text or a list of texts; a switch of the command line comes as True."""
    if flag.is_list:
        return Setting(flag, tuple(parse_value(flag, line, source) for line in raw), source)
    return Setting(flag, raw if raw is True else parse_value(flag, raw, source), source)


def _parse_line(flag: Flag, value: Any, source: str) -> Setting:
    """Parse a line of the file."""
    if flag.is_list:
        lines = value if isinstance(value, list) else [value]
        return Setting(flag, tuple(parse_toml(flag, line, source) for line in lines), source)
    return Setting(flag, parse_toml(flag, value, source), source)


def _check_bounds(setting: Setting) -> None:
    """Check each value alone, so that the error can say where it came from."""
    if setting.flag.field and setting.source != "default":
        ((field, value),) = option_of(setting).items()
        try:
            check_option(field, value, setting.source)
        except UsageError as error:
            raise UsageError(error.message, error.hint or setting.flag.help) from None


def option_of(setting: Setting) -> dict[str, Any]:
    """Return the setting as a keyword argument of loom.Options."""
    value = dict(setting.value) if setting.flag.name == "header" else setting.value
    return {setting.flag.field: value}


def options_of(settings: Mapping[str, Setting]) -> dict[str, Any]:
    """Return all keyword arguments of loom.fetch that the settings stand for. Raises UsageError on a contradiction."""
    offline, no_cache = settings["offline"], settings["no_cache"]
    if offline.value and no_cache.value:
        raise no_way_at_all(offline.source, no_cache.source)
    check_pairs(settings)
    choices: dict[str, Any] = {}
    for setting in settings.values():
        if setting.flag.field:
            choices |= option_of(setting)
    return choices


def read_choices(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return all keyword arguments of loom.fetch as environment and settings file have them. Raises UsageError."""
    path, named_by = config_path(None, environ)
    settings = resolve({}, environ, read_config(path, must_exist=named_by != "default"), path)
    return options_of(settings) | {"control_token": fleet_token(settings, environ)}


def check_pairs(settings: Mapping[str, Setting]) -> None:
    """Refuse the key of a client certificate that is not named. Raises UsageError, naming the place."""
    for cert, key in CERTIFICATES:
        if settings[key].value and not settings[cert].value:
            raise key_without_certificate(settings[key].source, settings[cert].flag.option)


def control_certificate(settings: Mapping[str, Setting]) -> ClientCertificate | None:
    """Return the client certificate for the control plane, None for none. Raises UsageError for a key alone."""
    from loom.net.tls import client_certificate  # imports ssl

    check_pairs(settings)
    return client_certificate(settings["control_cert"].value, settings["control_key"].value, "--control-cert")


def fleet_token(settings: Mapping[str, Setting], environ: Mapping[str, str]) -> str | None:
    """Return the fleet's token: from --token-file, else LOOM_FLEET_TOKEN; None without one.

    While tokens are exchanged there are several, one a line: the first is sent, all of them are accepted.
    Never LOOM_TOKEN: that is for the origin, and neither may get the other's. Raises UsageError when the file cannot be
    read, is empty, or holds other text than tokens.
    """
    return _tokens_of(settings["token_file"], "LOOM_FLEET_TOKEN", environ)


def read_token(settings: Mapping[str, Setting], environ: Mapping[str, str]) -> str | None:
    """Return the tokens that let a client of this control plane read, as `fleet_token` does; None without one."""
    return _tokens_of(settings["read_token_file"], "LOOM_READ_TOKEN", environ)


def _tokens_of(setting: Setting, variable: str, environ: Mapping[str, str]) -> str | None:
    if setting.value:
        try:
            with open(setting.value, encoding="utf-8") as file:
                text = file.read(65536).strip()
        except (OSError, UnicodeError) as error:
            reason = str(error.strerror).lower() if isinstance(error, OSError) else "it is not text"
            hint = "it holds a token a line: openssl rand -hex 32"
            raise UsageError(f"{setting.source}: cannot read {setting.value}: {reason}", hint) from None
        if not text:
            raise UsageError(f"{setting.source}: {setting.value} is empty", f"openssl rand -hex 32 > {setting.value}")
    else:
        text = environ.get(variable, "").strip()
        if not text:
            return None
    if not are_tokens(text):
        hint = f"a token a line, at most {MAX_TOKENS}, in printable ASCII: openssl rand -hex 32"
        raise UsageError(f"the token in {setting.value or variable} is not one", hint)
    return "\n".join(split_tokens(text))


def denied_hint(settings: Mapping[str, Setting], environ: Mapping[str, str]) -> str:
    """Return the hint for a refusal by a control plane; "" for its own hint.

    Users that set LOOM_TOKEN alone may think that it is the fleet's.
    """
    is_given = settings["token_file"].value or environ.get("LOOM_FLEET_TOKEN", "").strip()
    if is_given or not environ.get("LOOM_TOKEN"):
        return ""
    return "LOOM_TOKEN is for origins alone; the fleet's token is read from --token-file or LOOM_FLEET_TOKEN"

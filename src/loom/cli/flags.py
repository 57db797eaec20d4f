"""The one table of flags: name, parser, default, help. Parsers, --help, environment, files and docs are made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loom.cli.values import (
    format_whole_size,
    parse_age,
    parse_count,
    parse_header,
    parse_link,
    parse_rate,
    parse_seconds,
    parse_size,
    parse_switch,
    parse_text,
)
from loom.core.options import Options
from loom.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Flag:
    """One setting.

    name: its key in the configuration file; `--name` and LOOM_NAME follow from it.
    parse: turns text into the value; raises ValueError with the form that would be right.
    default: the value when no flag, variable or file sets it.
    metavar: the word for the value in help; "" for a switch.
    help: one sentence, without a full stop.
    field: the field of loom.Options that it sets; "" when the command itself uses it.
    short: a one-letter form, or "".
    is_list: may be given several times (several lines in the environment, an array in the file).
    is_secret: shown blanked out.
    scope: "settings" may come from environment and file; "call" belongs to one call, and comes from flags alone.
    env: the environment variable, where LOOM_NAME would not do.
    """

    name: str
    parse: Callable[[str], Any]
    default: Any
    metavar: str
    help: str
    field: str = ""
    short: str = ""
    is_list: bool = False
    is_secret: bool = False
    scope: str = "settings"
    env: str = ""

    @property
    def option(self) -> str:
        """The long form on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def shown_default(self) -> str:
        """The default as help and docs show it; "" for none."""
        if self.default in (None, (), False):
            return ""
        if isinstance(self.default, str):
            return self.default
        return format_whole_size(self.default) if self.parse in (parse_size, parse_rate) else f"{self.default:g}"

    @property
    def variable(self) -> str:
        """The environment variable; "" for a flag that belongs to one call."""
        return self.env or "LOOM_" + self.name.upper() if self.scope == "settings" else ""


_OPTIONS = Options()

OUT = Flag(
    "out", parse_text, None, "FILE", "where the file goes; an existing file is replaced", short="o", scope="call"
)
URL = Flag("url", parse_text, None, "URL", "what to fetch: an http or https URL, or hf://ORG/NAME", scope="call")
FROM_FILE = Flag("from_file", parse_text, None, "LIST",
                 "fetch also what this file names: a URL or hf:// name a line; - for stdin", scope="call")  # fmt: skip

FETCH_FLAGS = (
    Flag("workers", parse_count, _OPTIONS.workers, "N", "most range requests at once, 1 to 1024", "workers"),
    Flag("sha256", parse_text, None, "HEX", "digest that the file must have; another one is an error", "sha256"),
    Flag("token", parse_text, None, "TOKEN", "bearer token for the host of the URL; no other host gets it", "token",
         is_secret=True),
    Flag("header", parse_header, (), "'K: V'",
         "header for the host of the URL; no other host gets it; may be given several times",
         "headers", short="H", is_list=True, is_secret=True),
    Flag("ca_file", parse_text, None, "FILE", "certificate authorities to trust (PEM), instead of the system's",
         "ca_file"),
    Flag("cert", parse_text, None, "FILE",
         "client certificate (PEM) for the host of the URL; no other host gets it", "cert"),
    Flag("key", parse_text, None, "FILE",
         "private key of --cert (PEM, not encrypted), if it is in another file", "key"),
    Flag("proxy_cert", parse_text, None, "FILE", "client certificate (PEM) for a proxy at https://", "proxy_cert"),
    Flag("proxy_key", parse_text, None, "FILE",
         "private key of --proxy-cert (PEM, not encrypted), if it is in another file", "proxy_key"),
    Flag("allow_redirect_to", parse_text, (), "HOST|CIDR",
         "let redirects lead to this loopback, link-local or metadata address; may be given several times",
         "allow_redirect_to", is_list=True),
    Flag("chunk_size", parse_size, _OPTIONS.chunk_size, "SIZE",
         "size of a chunk, the unit that is recorded and retried, 64KiB to 1GB",
         "chunk_size"),
    Flag("retries", parse_count, _OPTIONS.retries, "N",
         "retries of a request without progress before the fetch fails", "retries"),
    Flag("backoff", parse_seconds, _OPTIONS.backoff_s, "SECONDS",
         "pause before the first retry; each later pause is twice as long",
         "backoff_s"),
    Flag("timeout", parse_seconds, _OPTIONS.timeout_s, "SECONDS",
         "reconnect when a connection stays below 1 KiB/s for this long; not a limit on the whole fetch", "timeout_s"),
    Flag("limit_rate", parse_rate, None, "RATE", "most bytes per second to receive, origin and peers together: 50MB/s",
         "limit_rate"),
)  # fmt: skip

CACHE = Flag(
    "cache", parse_text, None, "DIR", "the cache's folder (default: $XDG_CACHE_HOME/loom, ~/.cache/loom)", "cache"
)

CACHE_FLAGS = (
    CACHE,
    Flag("link", parse_link, _OPTIONS.link, "HOW", "how FILE gets its bytes: auto (hard link, else reflink, else "
         "copy), hard, reflink, symlink, copy; take copy for a file that will be edited: root writes through a link "
         "into the cache", "link"),
    Flag("revalidate", parse_switch, False, "", "ask the origin whether the cached file is current", "revalidate"),
    Flag("max_age", parse_age, None, "AGE", "ask the origin if it was last asked longer ago than this: 30d, 12h, 90s",
         "max_age_s"),
    Flag("offline", parse_switch, False, "",
         "never use the network; a file that is not in the cache is an error", "offline"),
    Flag("max_cache_size", parse_size, None, "SIZE", "most bytes in the cache; files used least recently are evicted "
         "for a new file",
         "max_cache_size"),
    Flag("no_cache", parse_switch, False, "", "fetch straight to FILE, without the cache", "no_cache"),
)  # fmt: skip

JSON = Flag("json", parse_switch, False, "", "print one JSON object on stdout: the result, or the error")
CONFIG = Flag("config", parse_text, None, "FILE", "settings file (default: $LOOM_CONFIG, ~/.config/loom/config.toml)",
              scope="call")  # fmt: skip

VERBOSE = Flag("verbose", parse_switch, False, "",
               "print each request, each retry and its reason, and which peers are asked", short="v")  # fmt: skip

OUTPUT_FLAGS = (Flag("quiet", parse_switch, False, "", "print errors only", short="q"), VERBOSE, JSON, CONFIG)

CONTROL_FLAGS = (
    Flag("control", parse_text, None, "URL", "the control plane's URL: http://host:3000", "control"),
    Flag("token_file", parse_text, None, "FILE", "holds the fleet's token (or: LOOM_FLEET_TOKEN); with a second line, "
         "for a rotation, the first is sent and both are accepted"),
    Flag("control_ca_file", parse_text, None, "FILE",
         "certificate authorities to trust (PEM) for a control plane at https://",
         "control_ca_file"),
    Flag("control_cert", parse_text, None, "FILE", "client certificate (PEM) for a control plane behind mutual TLS",
         "control_cert"),
    Flag("control_key", parse_text, None, "FILE",
         "private key of --control-cert (PEM, not encrypted), if it is in another file",
         "control_key"),
)  # fmt: skip
"""Flags that tell how to reach a control plane."""

NODE = Flag("node", parse_text, None, "NAME", "name of this machine in the fleet (default: its host name)", "node")
ZONE = Flag("zone", parse_text, None, "NAME", "zone of this machine; nodes of the same zone are preferred", "zone")
MODEL = Flag("model", parse_text, None, "NAME",
             "name of the model in the fleet (default: host and path of the URL)", "model",
             scope="call")  # fmt: skip

LOCKED = Flag("locked", parse_text, None, "LOCKFILE",
              "fetch exactly what a lock file of `loom lock` says, or fail", scope="call")  # fmt: skip

MODEL_FLAGS = (
    Flag("include", parse_text, (), "PATTERN",
         "of a model: only files that match, such as '*.safetensors'; may be given several times", "include",
         is_list=True, scope="call"),
    Flag("exclude", parse_text, (), "PATTERN",
         "of a model: no files that match, such as 'original/*'; may be given several times", "exclude",
         is_list=True, scope="call"),
    Flag("hub_cache", parse_switch, False, "", "put the model into the cache of the hub's own client (HF_HUB_CACHE, "
         "HF_HOME), by hard link: transformers, vLLM and llama.cpp find it there offline", "hub_cache", scope="call"),
)  # fmt: skip
"""Which files of a model are fetched, and where they go."""

LIMIT_UPLOAD_RATE = Flag("limit_upload_rate", parse_rate, None, "RATE",
                         "most bytes per second to send to peers: 50MB/s",
                         "limit_upload_rate")  # fmt: skip

PEER_FLAGS = (
    Flag("listen", parse_text, None, "HOST:PORT", "where peers find it; PORT may be FIRST-LAST (default: a free "
         "port from 3002 to 3100 of the address that faces the control plane)", "listen"),
    Flag("private", parse_switch, False, "",
         "upload nothing to peers; downloading from them is still allowed", "private"),
    Flag("linger", parse_seconds, _OPTIONS.linger_s, "SECONDS",
         "after the fetch, a background process uploads to peers until "
         "none has asked for this long; 0 for none", "linger_s"),
    LIMIT_UPLOAD_RATE,
    Flag("no_peers", parse_switch, False, "", "do not use peers: no download from them, no upload to them", "no_peers"),
)  # fmt: skip
"""Flags that tell how a fetch and its peers find each other."""

SERVE = Flag("serve", parse_switch, False, "", "run a control plane beside the fetch, and after it until stopped",
             scope="call")  # fmt: skip

LISTEN_FLAGS = (
    Flag("host", parse_text, "127.0.0.1", "HOST",
         "address to listen on; 0.0.0.0 or :: for every interface, which needs a token",
         env="LOOM_LISTEN_HOST"),
    Flag("port", parse_count, 3000, "PORT", "the port to listen on; 0 for any", env="LOOM_LISTEN_PORT"),
    Flag("registry", parse_text, None, "URL",
         "where the fleet's state is stored: sqlite:///path, redis://host, rediss://, "
         "valkey://, redis+sentinel://, redis+cluster:// (default: a file in ~/.local/state/loom)"),
    Flag("allow_anonymous", parse_switch, False, "", "serve every client that can connect, without a token",
         "allow_anonymous"),
    Flag("tls_cert", parse_text, None, "FILE", "certificate chain (PEM), to serve https"),
    Flag("tls_key", parse_text, None, "FILE", "private key (PEM), if it is in another file"),
    Flag("read_token_file", parse_text, None, "FILE", "holds a token that may only read: for people, Prometheus (or: "
         "LOOM_READ_TOKEN)"),
    Flag("allow_cidr", parse_text, (), "CIDR", "network that nodes may be in; replaces the default, the private ones; "
         "may be given several times", is_list=True),
    Flag("allow_host", parse_text, (), "NAME", "name with a dot by which a browser may call it when there is no token; "
         "may be given several times", is_list=True),
)  # fmt: skip
"""Flags of a listening control plane. Not LOOM_PORT: Kubernetes sets that for a service called loom, to tcp://..."""

CACHE_COMMAND_FLAGS = (
    Flag("repair", parse_switch, False, "", "verify: also rebuild missing index entries and delete unusable files",
         scope="call"),
    Flag("max_size", parse_size, None, "SIZE", "gc: remove the files used least recently until the cache has this size",
         scope="call"),
    Flag("older_than", parse_age, None, "AGE",
         "gc: remove the files last used longer ago than this: 30d, 12h", scope="call"),
)  # fmt: skip

FLEET_FLAGS = (*CONTROL_FLAGS, NODE, ZONE, MODEL, *PEER_FLAGS)

ALL_FLAGS = FETCH_FLAGS + MODEL_FLAGS + CACHE_FLAGS + FLEET_FLAGS + LISTEN_FLAGS + OUTPUT_FLAGS

SETTINGS = tuple(flag for flag in ALL_FLAGS if flag.scope == "settings")


def pick(*names: str) -> tuple[Flag, ...]:
    """Return flags by name, in that order."""
    known = {flag.name: flag for flag in ALL_FLAGS}
    return tuple(known[name] for name in names)


def parse_value(flag: Flag, text: str, where: str) -> Any:
    """Parse one value; `where` names its place in the error. Raises UsageError, never quoting a secret."""
    try:
        return flag.parse(text)
    except ValueError as error:
        if not text:
            raise UsageError(f"{where} is empty", f"is a variable unset? it wants {error}: {flag.help}") from None
        shown = "" if flag.is_secret else f", not {text!r}"
        raise UsageError(f"{where} wants {error}{shown}", flag.help) from None


def parse_toml(flag: Flag, value: Any, where: str) -> Any:
    """Parse the TOML value of a line in the file: text as parse_value does, else a value of the flag's own type.

    Without this `token = ["x"]` would be sent as the text "['x']". Raises UsageError, never quoting a secret.
    """
    if isinstance(value, str):
        return parse_value(flag, value, where)
    wanted: tuple[type, ...] = _TOML_TYPES.get(flag.parse, ())
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise UsageError(f"{where} cannot be {_toml_name(value)}", flag.help)
    return value if isinstance(value, bool) else parse_value(flag, str(value), where)


_TOML_TYPES: dict[Callable[[str], Any], tuple[type, ...]] = {
    parse_count: (int, float),
    parse_seconds: (int, float),
    parse_age: (int, float),
    parse_size: (int,),
    parse_rate: (int,),
    parse_switch: (bool,),
}


def _toml_name(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", list: "an array", dict: "a table"}
    return names.get(type(value), "a date")

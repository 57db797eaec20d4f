"""Checks of this machine's network, for `loom doctor`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
import ssl
from functools import partial
from typing import TYPE_CHECKING

from loom.core.check import FAILURE, OK, WARNING, Check, Finding
from loom.core.control_url import parse_control_url
from loom.core.proxies import choose_proxy
from loom.core.urls import parse_url
from loom.errors import UsageError
from loom.net.loops import cpu_quota, usable_cores, useful_loops
from loom.net.pour import F_SETPIPE_SZ, PIPE_SIZE
from loom.net.tls import client_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

ENOUGH_FILES = 1024
"""Open files that are enough: 64 workers need some 200, and a node one for each connection, 512 at most."""

CONNECT_S = 1.5
"""Seconds for a connection to a proxy."""


def checks(
    environ: Mapping[str, str], control: str | None, ca_files: Mapping[str, str | None], workers: int
) -> list[Check]:
    """Return the checks of the network here.

    environ: names the proxies. control: the control plane's URL, None for none. ca_files: by flag. workers: of a
    fetch.
    """
    looks: dict[str, Callable[[], Iterable[Finding]]] = {
        "proxy": partial(_look_at_proxies, environ), "certificates": partial(_look_at_authorities, ca_files),
        "open files": _look_at_open_files, "splice": _look_at_splice, "cores": partial(_look_at_cores, workers),
    }  # fmt: skip
    if control:
        looks["name"] = partial(_look_up, control)
    return [Check("net", what, look) for what, look in looks.items()]


def _look_at_proxies(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Try the proxies that stand between us and an origin that NO_PROXY does not name."""
    seen = set()
    for scheme in ("https", "http"):
        try:
            proxy = choose_proxy(parse_url(f"{scheme}://origin.invalid/").endpoint, environ)
        except UsageError as error:
            yield Finding(FAILURE, "proxy", error.message, error.hint)
            continue
        if proxy is None:
            yield Finding(OK, "proxy", f"none for {scheme}:// URLs")
        elif (where := (proxy.host, proxy.port)) not in seen:
            seen.add(where)
            yield _try_proxy(scheme, *where)


def _try_proxy(scheme: str, host: str, port: int) -> Finding:
    where = f"the proxy {host}:{port} of {scheme}:// URLs"
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or "no answer").lower()
        hint = f"check {scheme.upper()}_PROXY and ALL_PROXY; NO_PROXY names hosts to ask directly"
        return Finding(FAILURE, "proxy", f"{where} cannot be reached: {reason}", hint)
    return Finding(OK, "proxy", f"{where} takes connections")


def _look_at_authorities(ca_files: Mapping[str, str | None]) -> Iterator[Finding]:
    for flag, path in ca_files.items():
        if path is None:
            continue
        try:
            client_context(path, ca_flag=flag)
        except UsageError as error:
            yield Finding(FAILURE, "certificates", f"{flag}: {error.message}", error.hint)
        else:
            yield Finding(OK, "certificates", f"{flag}: the authorities in {path} can be used")
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    has_folder = bool(paths.capath and any(os.scandir(paths.capath)))
    if context.cert_store_stats()["x509_ca"] or has_folder:
        yield Finding(OK, "certificates", f"the system's authorities are at {paths.cafile or paths.capath}")
    else:
        hint = "install ca-certificates, or name a file with --ca-file or SSL_CERT_FILE"
        yield Finding(WARNING, "certificates", "this system has no certificate authorities: https:// fails", hint)


def _look_at_open_files() -> Iterator[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= ENOUGH_FILES:
        yield Finding(OK, "open files", "any number may be open" if soft < 0 else f"{soft} may be open at once")
        return
    hint = f"ulimit -n {ENOUGH_FILES}, as root; in a unit: LimitNOFILE={ENOUGH_FILES}"
    yield Finding(WARNING, "open files", f"only {soft} may be open at once, {ENOUGH_FILES} are enough", hint)


def _look_at_splice() -> Iterator[Finding]:
    """Move a byte as a body is moved, and make a pipe as large as those that bodies go through."""
    slow = "plain HTTP takes more CPU time"
    with _pipe() as (out, into), open(os.devnull, "wb", buffering=0) as null:
        try:
            os.write(into, b"x")
            os.splice(out, null.fileno(), 1)
        except (OSError, AttributeError) as error:
            reason = (getattr(error, "strerror", None) or "this Python has none").lower()
            yield Finding(WARNING, "splice", f"splice does not work: {reason}; {slow}", "a filter of system calls?")
            return
        try:
            fcntl.fcntl(into, F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:
            size = _pipe_size(into)
            hint = "raise fs.pipe-max-size, or fs.pipe-user-pages-soft (sysctl)"
            yield Finding(WARNING, "splice", f"a pipe holds only {size:,} bytes: {slow}", hint)
        else:
            yield Finding(OK, "splice", f"bodies go through the kernel, {PIPE_SIZE:,} bytes at once")


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    pipe = os.pipe()
    try:
        yield pipe
    finally:
        for fd in pipe:
            os.close(fd)


def _pipe_size(fd: int) -> int:
    return int(fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)) if hasattr(fcntl, "F_GETPIPE_SZ") else 0


def _look_at_cores(workers: int) -> Iterator[Finding]:
    cores, quota = usable_cores(), cpu_quota()
    loops = useful_loops(workers, decrypts=True)
    message = f"{cores} may be used: {loops} event loops for TLS" + (f" (quota {quota:g})" if quota else "")
    if quota and quota < 1:
        yield Finding(WARNING, "cores", f"only {quota:g} of a core may be used", "raise the container's CPU limit")
    else:
        yield Finding(OK, "cores", message)


def _look_up(control: str) -> Iterator[Finding]:
    host = parse_control_url(control).endpoint.host
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or "it is no host name").lower()
        yield Finding(FAILURE, "name", f"{host} cannot be found: {reason}", "check --control and the resolver")
        return
    addresses = ", ".join(dict.fromkeys(str(place[0]) for *_, place in found))
    yield Finding(OK, "name", f"{host} is {addresses}" if addresses != host else f"{host} is an address")

"""`loom cache`: list, verify and remove cached files."""

from __future__ import annotations

import os
import sys
import time
from string import hexdigits
from typing import TYPE_CHECKING, Any, NamedTuple

from loom.cli.flags import CACHE, CACHE_COMMAND_FLAGS, CONFIG, JSON, parse_value
from loom.cli.output import Talk, format_table, print_json, print_result
from loom.cli.parser import Parser, add_flags, new_parser, parse
from loom.cli.settings import Voice, read_settings
from loom.cli.words import count, format_age, format_size
from loom.core.hub import is_hub_text, parse_hub
from loom.core.keys import reference_key
from loom.core.urls import redact
from loom.errors import IntegrityError, NotCached, UsageError
from loom.store.cache import Cache, cache_root
from loom.store.checking import Damage, check, repair
from loom.store.evicting import Removed, collect_garbage, remove_blobs, remove_part
from loom.store.faults import faults
from loom.store.inventory import Blob, Inventory, Part, is_in_use, take_inventory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SHOWN = 10
"""Most models that are listed with why they were kept."""

SHORTEST = 6
"""Digits of a digest that name a blob or a part, at least."""

_STATES = {
    "supplied": "sha256 supplied", "told": "sha256 told", "computed": "sha256 computed", "unhashed": "not yet hashed",
}  # fmt: skip


def cache_parser() -> Parser:
    """Return the parser of `loom cache`."""
    actions = "\n".join(f"  {action.usage:<10}  {action.help}" for action in ACTIONS.values())
    usage = f"loom cache {' | '.join(action.usage for action in ACTIONS.values())}  [options]"
    parser = new_parser("loom cache", f"List, verify and remove cached files.\n\nactions:\n{actions}", usage)
    parser.add_argument("action", nargs="?", metavar="ACTION", help="one of the above")
    parser.add_argument("ref", nargs="?", metavar="REF", help="which model")
    add_flags(parser, (*CACHE_COMMAND_FLAGS, CACHE, JSON, CONFIG))
    return parser


def run_cache(arguments: list[str], voice: Voice) -> int:
    """Carry out one of the actions."""
    raw = parse(cache_parser(), arguments)
    action = str(raw["action"] or "")
    if action not in ACTIONS:
        hint = f"loom cache {' | '.join(ACTIONS)}"
        raise UsageError(f"there is no cache action {action!r}" if action else "the action is missing", hint)
    if raw["ref"] and "REF" not in ACTIONS[action].usage:
        raise UsageError(f"an argument too many for `loom cache {action}`", "see `loom cache --help`")
    root = cache_root(read_settings(raw, voice)["cache"].value, os.environ)
    if not root:
        raise UsageError("there is no home folder for a cache", "set LOOM_CACHE, or give --cache DIR")
    given = {flag.name: parse_value(flag, str(raw[flag.name]), flag.option) for flag in CACHE_COMMAND_FLAGS
             if raw.get(flag.name) is not None and flag.metavar}  # fmt: skip
    with faults("change" if action in ("rm", "gc") else "read", root):
        return ACTIONS[action].run(Cache(root), {**raw, **given}, voice)


def _ls(cache: Cache, _raw: Mapping[str, Any], voice: Voice) -> int:
    inventory = take_inventory(cache)
    blobs = list(reversed(inventory.blobs))
    if voice.as_json:
        print_json({
            "cache": cache.root, "size": inventory.size, "blobs": [_to_dict(cache, blob) for blob in blobs],
            "parts": [_part_to_dict(part) for part in reversed(inventory.parts)],
        })  # fmt: skip
        return 0
    now = time.time()
    rows = [
        [_name_of(blob), format_size(blob.size), format_age(now - _fetched_at(blob)), format_age(now - blob.used_at),
         str(blob.links + len(blob.symlinks)), _STATES.get(blob.state, blob.state),
         (blob.digest or blob.name.rpartition("/")[2])[:12]]
        for blob in blobs
    ] + [
        [part.name or "-", format_size(part.size), "-", format_age(now - part.used_at), "-", _state_of(part),
         part.key[:12]]
        for part in reversed(inventory.parts)
    ]  # fmt: skip
    if rows:
        print_result(
            format_table(["MODEL", "SIZE", "AGE", "USED", "LINKS", "VERIFIED", "ID"], rows, right=(1, 2, 3, 4))
        )
        print_result("")
    print_result(_summary(cache, inventory))
    return 0


def _summary(cache: Cache, inventory: Inventory) -> str:
    size = sum(blob.size for blob in inventory.blobs)
    parts = [count(len(inventory.blobs), "blobs") + (f", {format_size(size)}" if size else "")]
    if inventory.parts:
        kept = format_size(sum(part.size for part in inventory.parts))
        active = sum(part.is_active for part in inventory.parts)
        parts.append(f"{count(len(inventory.parts), 'unfinished downloads')} ({kept}, {active} under way)")
    if inventory.leftovers or inventory.quarantined:
        number = len(inventory.leftovers) + len(inventory.quarantined)
        parts.append(f"{count(number, 'files')} of no use (loom cache gc removes them)")
    return "  ".join([*parts, f"in {cache.root}"])


def _state_of(part: Part) -> str:
    """Return the progress of an unfinished download, and whether a process holds it."""
    share = f"{part.received * 100 // part.whole} %, " if part.whole else ""
    return share + ("under way" if part.is_active else "unfinished")


def _part_to_dict(part: Part) -> dict[str, Any]:
    return {
        "name": part.name or None, "url": part.url or None, "key": part.key, "path": part.path, "size": part.size,
        "received": part.received, "whole": part.whole or None, "used_at": part.used_at, "active": part.is_active,
    }  # fmt: skip


def _name_of(blob: Blob) -> str:
    """Return the file's name; "-" when no reference tells it."""
    return blob.title if blob.refs else "-"


def _fetched_at(blob: Blob) -> float:
    """Return when the blob was published, seconds since 1970."""
    return max((ref.mtime_ns / 1e9 for ref in blob.refs.values()), default=blob.used_at)


def _to_dict(cache: Cache, blob: Blob) -> dict[str, Any]:
    return {
        "name": blob.title,
        "digest": f"sha256:{blob.digest}" if blob.digest else None,
        "size": blob.size,
        "path": blob.path,
        "links": blob.links,
        "symlinks": list(blob.symlinks),
        "in_use": is_in_use(blob.place),
        "verified": blob.state,
        "fetched_at": _fetched_at(blob),
        "used_at": blob.used_at,
        "references": [
            {"url": ref.url, "key": key, "etag": ref.etag or None, "checked_at": ref.checked_at,
             "believed": cache.is_whole(ref) and cache.has_survived(ref)}
            for key, ref in sorted(blob.refs.items())
        ],
    }  # fmt: skip


def _pick(cache: Cache, raw: Mapping[str, Any]) -> Blob | Part:
    """Return the blob that REF names, else the part: REF is a URL, a name, a digest or its beginning."""
    text = str(raw["ref"] or "")
    if not text:
        raise UsageError("REF is missing", "a URL, a name or a digest: `loom cache ls` shows them")
    key, digest = reference_key(text), text.lower().removeprefix("sha256:")
    inventory = take_inventory(cache)
    blobs = inventory.blobs
    found = [blob for blob in blobs if key in blob.refs]
    found = found or [blob for blob in blobs if text in (blob.title, *(ref.name for ref in blob.refs.values()))]
    if len(digest) >= SHORTEST:
        found = found or [blob for blob in blobs if (blob.digest or blob.name.rpartition("/")[2]).startswith(digest)]
    if not found:
        return _pick_part(inventory, text, key)
    if len(found) > 1:
        ids = ", ".join((blob.digest or blob.name)[:12] for blob in found)
        raise UsageError(f"{len(found)} blobs are called {found[0].title}", f"say which by its ID: {ids}")
    return found[0]


def _of_model(cache: Cache, text: str) -> list[Blob]:
    """Return the blobs of a model, or of a folder of it, that a name on a hub means: of all commits, or of its own.

    What another name leads to as well stays; then only this name's records are forgotten.
    """
    if not is_hub_text(text):
        return []
    name = str(parse_hub(text))
    begins = (f"{name}/", *(() if "@" in name else (f"{name}@",)))
    found = []
    for blob in take_inventory(cache).blobs:
        own = [key for key, ref in blob.refs.items() if ref.url.startswith(begins)]
        if own and len(own) == len(blob.refs):
            found.append(blob)
        else:
            for key in own:
                cache.forget(key)
    return found


def _pick_part(inventory: Inventory, text: str, key: str) -> Part:
    found = [part for part in inventory.parts if key == part.key or text == part.name]
    if len(text) >= SHORTEST:
        found = found or [part for part in inventory.parts if part.key.startswith(text.lower())]
    if not found:
        is_short = len(text) < SHORTEST and all(digit in hexdigits for digit in text)
        short = f"of a digest at least {SHORTEST} digits are needed; " if is_short else ""
        raise NotCached(f"{redact(text)} is not in the cache", f"{short}`loom cache ls` lists all")
    if len(found) > 1:
        ids = ", ".join(part.key[:12] for part in found)
        message = f"{len(found)} unfinished downloads are called {found[0].title}"
        raise UsageError(message, f"say which by its ID: {ids}")
    return found[0]


def _info_of_part(part: Part, voice: Voice) -> int:
    if voice.as_json:
        print_json(_part_to_dict(part))
        return 0
    whole = f" of {format_size(part.whole)}" if part.whole else ""
    lines = [
        ("name", part.title), ("state", _state_of(part)), ("received", f"{format_size(part.received)}{whole}"),
        ("size", f"{format_size(part.size)} on the disk"), ("used", _ago(time.time() - part.used_at)),
        ("path", part.path), ("url", part.url or "(not known)"),
    ]  # fmt: skip
    print_result("\n".join(f"{name:<10}{text}" for name, text in lines))
    return 0


def _info(cache: Cache, raw: Mapping[str, Any], voice: Voice) -> int:
    blob = _pick(cache, raw)
    if isinstance(blob, Part):
        return _info_of_part(blob, voice)
    facts = _to_dict(cache, blob)
    if voice.as_json:
        print_json(facts)
        return 0
    now = time.time()
    lines = [
        ("name", blob.title), ("size", f"{format_size(blob.size)} ({blob.size:,} bytes)"),
        ("digest", facts["digest"] or "not yet computed"), ("verified", _STATES.get(blob.state, blob.state)),
        ("fetched", _ago(now - _fetched_at(blob))), ("used", _ago(now - blob.used_at)),
        *(("symlink", path) for path in blob.symlinks),
        ("links", f"{blob.links} ({'in use' if facts['in_use'] else 'not open in any process'})"), ("path", blob.path),
        *(("url", ref["url"] or "(not known)") for ref in facts["references"]),
    ]  # fmt: skip
    print_result("\n".join(f"{name:<10}{text}" for name, text in lines))
    return 0


def _ago(seconds: float) -> str:
    return f"{age} ago" if (age := format_age(seconds)) != "now" else "now"


def _path(cache: Cache, raw: Mapping[str, Any], voice: Voice) -> int:
    path = _pick(cache, raw).path if raw["ref"] else cache.root
    if voice.as_json:
        print_json({"path": path})
    else:
        print_result(path)
    return 0


def _verify(cache: Cache, raw: Mapping[str, Any], voice: Voice) -> int:
    talk = Talk("", os.environ, quiet=not sys.stderr.isatty())
    try:
        damage = check(cache, lambda title, size: talk.show(f"verifying {title}  {format_size(size)}"))
    finally:
        talk.clear()
    made = repair(cache) if raw["repair"] else 0
    if voice.as_json:
        problems = [{"name": p.title, "problem": p.what, "done": p.done or None} for p in damage.problems]
        print_json({"blobs": damage.blobs, "size": damage.size, "problems": problems, "rebuilt": made,
                    "unproved": damage.unproved})  # fmt: skip
    else:
        _show_damage(damage)
        if raw["repair"]:
            print_result(f"repaired; {count(made, 'references')} made anew")
    if damage.problems and not raw["repair"]:
        return IntegrityError.exit_code
    return 0


def _show_damage(damage: Damage) -> None:
    for problem in damage.problems:
        print_result(f"{problem.title}: {problem.what}" + (f"; {problem.done}" if problem.done else ""))
    verdict = count(len(damage.problems), "problems") if damage.problems else "all right"
    print_result(f"{count(damage.blobs, 'blobs')}, {format_size(damage.size)}: {verdict}")
    if damage.unproved:
        print_result(f"{count(damage.unproved, 'blobs')} not yet hashed: only size and time were compared")


def _rm(cache: Cache, raw: Mapping[str, Any], voice: Voice) -> int:
    if blobs := _of_model(cache, str(raw["ref"] or "")):
        if busy := [blob.title for blob in blobs if is_in_use(blob.place)]:
            raise UsageError(f"{busy[0]} is in use by another process", "stop it first")
        return _tell_removed(cache, remove_blobs(cache, blobs), voice)
    one = _pick(cache, raw)
    if isinstance(one, Part):
        if not remove_part(one):
            raise UsageError(f"{one.title} is being fetched by another process", "stop it first")
        return _tell_removed(cache, Removed(freed=one.size, parts=(one,)), voice)
    if is_in_use(one.place):
        raise UsageError(f"{one.title} is in use by another process", "stop it first")
    return _tell_removed(cache, remove_blobs(cache, [one]), voice)


def _gc(cache: Cache, raw: Mapping[str, Any], voice: Voice) -> int:
    has_limit = raw["max_size"] is not None or raw["older_than"] is not None
    code = _tell_removed(cache, collect_garbage(cache, raw["max_size"], raw["older_than"]), voice)
    if not has_limit and not voice.as_json:
        print_result("models stay unless --max-size or --older-than says which may go")
    return code


def _tell_removed(cache: Cache, removed: Removed, voice: Voice) -> int:
    left = take_inventory(cache)
    if voice.as_json:
        names = [{"name": blob.title, "size": blob.size, "links": blob.links} for blob in removed.blobs]
        parts = [_part_to_dict(part) for part in removed.parts]
        passed = [{"name": title, "size": size, "why": why} for title, size, why in removed.kept]
        print_json({"removed": names, "parts": parts, "files": list(removed.files), "freed": removed.freed,
                    "left": left.size, "kept": passed})  # fmt: skip
        return 0
    for blob in removed.blobs:
        kept = f"  (its bytes stay with {count(blob.links, 'links')})" if blob.links else ""
        print_result(f"removed {blob.title}  {format_size(blob.size)}{kept}")
    for path in (path for blob in removed.blobs for path in blob.symlinks):
        print_result(f"now {path} leads nowhere: it was a symbolic link to it")
    for part in removed.parts:
        print_result(f"removed {part.title}  {format_size(part.size)}  (unfinished)")
    if removed.files:
        print_result(f"removed {count(len(removed.files), 'files')} of no use")
    for title, size, why in removed.kept[:_SHOWN]:
        print_result(f"kept {title}  {format_size(size)}: {why}")
    if len(removed.kept) > _SHOWN:
        print_result(f"kept {len(removed.kept) - _SHOWN} more for such reasons")
    print_result(f"{format_size(removed.freed)} freed, {format_size(left.size)} left in {cache.root}")
    return 0


class _Action(NamedTuple):
    usage: str
    help: str
    run: Callable[[Cache, Mapping[str, Any], Voice], int]


ACTIONS = {
    "ls": _Action("ls", "list cached files: size, age, last use, links, how each was verified", _ls),
    "info": _Action("info REF", "all about one model; REF is a URL, a name, or at least 6 digits of a digest", _info),
    "verify": _Action(
        "verify", "read every blob whose digest is known; a damaged one goes into quarantine (exit code 7)", _verify
    ),
    "rm": _Action("rm REF", "remove one file, what there is of an unfinished one, or a model: hf://ORG/NAME", _rm),
    "gc": _Action("gc", "remove leftovers, and models by --max-size and --older-than; never a model in use", _gc),
    "path": _Action("path [REF]", "print the cache's folder, or a model's path in it", _path),
}
"""Actions of `loom cache`; its help and its page are made of this."""

"""`loom lock URL ...` and `loom verify FOLDER --locked FILE`: what stands behind names; does a folder hold it?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom.cli.flags import CONFIG, JSON, LOCKED, URL, pick
from loom.cli.output import print_json, print_result
from loom.cli.parser import Parser, add_flags, new_parser, parse
from loom.cli.settings import options_of, read_settings
from loom.cli.words import count, printable
from loom.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from loom.cli.settings import Voice
    from loom.core.lock import Locked

_LOCK = """\
Print what stands behind names now: commit, files, sizes and digests, as a lock file.

`loom fetch --locked FILE` fetches exactly that, `loom verify FOLDER --locked FILE` checks what is there.
Nothing but listings is fetched. The same answer of the hub gives the same text."""

_VERIFY = """\
Read the files of a model and compare them with a lock file: each must be there, with its size and digest.

FOLDER is what `loom fetch --locked FILE -o FOLDER` filled: with one model its folder, else the folder of all.
Exit code 7 when a file is wrong or missing. Files that the lock file does not name are no concern."""


def lock_parser() -> Parser:
    """Return the parser of `loom lock`."""
    parser = new_parser("loom lock", _LOCK, "loom lock URL ... [options] > loom.lock")
    parser.add_argument("url", metavar="URL", nargs="*", help=URL.help)
    asking = pick("token", "header", "ca_file", "cert", "key", "retries", "backoff", "timeout", "allow_redirect_to")
    add_flags(parser, (*pick("include", "exclude"), *asking, *pick("cache", "no_cache", "offline"), JSON, CONFIG))
    return parser


def run_lock(arguments: list[str], voice: Voice) -> int:
    """Print the lock file of some references."""
    raw = parse(lock_parser(), arguments)
    urls = [str(one) for one in raw["url"]] if isinstance(raw["url"], list) else []
    if not urls:
        raise UsageError("a name is missing", "loom lock hf://ORG/NAME > loom.lock")
    settings = read_settings(raw, voice)
    from loom.core.lock import format_lock
    from loom.core.options import Options
    from loom.fetching.session import Session

    with Session(Options(**options_of(settings))) as session:
        locked = [session.lock(url) for url in urls]
    places_of(locked, None)  # two models of one name are refused here, not when the lock is used
    if voice.as_json:
        print_json({"models": [_to_dict(one) for one in locked]})
    else:
        print_result(format_lock(locked).removesuffix("\n"))
    return 0


def _to_dict(locked: Locked) -> dict[str, Any]:
    files = [
        {"path": entry.path, "size": entry.size, "digest": str(entry.digest) if entry.digest else None}
        for entry in sorted(locked.manifest.entries, key=lambda entry: entry.path)
    ]
    return {"name": locked.name, "pinned": locked.manifest.reference.stable, "files": files}


def verify_parser() -> Parser:
    """Return the parser of `loom verify`."""
    parser = new_parser("loom verify", _VERIFY, "loom verify FOLDER --locked FILE [options]")
    parser.add_argument("folder", metavar="FOLDER", nargs="?", help="what holds the model's files")
    add_flags(parser, (LOCKED, JSON, CONFIG), {"locked": "the lock file, as `loom lock` writes it"})
    return parser


def run_verify(arguments: list[str], voice: Voice) -> int:
    """Compare a folder with a lock file."""
    raw = parse(verify_parser(), arguments)
    if raw["folder"] is None or raw["locked"] is None:
        raise UsageError("the folder or the lock file is missing", "loom verify FOLDER --locked loom.lock")
    read_settings(raw, voice)
    folder = str(raw["folder"])
    if not Path(folder).is_dir():
        raise UsageError(f"{folder} is no folder", "name the one that was fetched into")
    from loom.fetching.locking import check_folder

    models = read_lock(str(raw["locked"]))
    total, wrong = 0, []
    for locked, (place, _) in zip(models, places_of(models, folder), strict=True):
        total += len(locked.manifest.entries)
        wrong += [(str(Path(place, one.path)), one.what) for one in check_folder(locked, place)]
    if voice.as_json:
        print_json({"files": total, "wrong": [{"path": path, "what": what} for path, what in wrong]})
    else:
        print_result("\n".join([*(printable(f"{path} {what}") for path, what in wrong), _summary(total, len(wrong))]))
    return IntegrityError.exit_code if wrong else 0


def _summary(total: int, wrong: int) -> str:
    return f"{count(wrong, 'files')} of {total:,} not as locked" if wrong else f"{count(total, 'files')} as locked"


def read_lock(path: str) -> list[Locked]:
    """Return what a lock file says. Raises UsageError, IntegrityError."""
    from loom.core.lock import parse_lock

    try:
        text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"--locked: cannot read {path}: {str(error.strerror).lower()}", "check the path") from None
    return parse_lock(text, path)


def places_of(models: list[Locked], folder: str | None) -> list[tuple[str, str | None]]:
    """Return where each model of a lock file goes: the folder that its paths start from, and what a fetch has as -o.

    One model goes to the folder itself, several go below it by their names; a single file goes into the folder. Without
    a folder it is the working one. Raises UsageError for two of one name.
    """
    from loom.core.reference import parse_reference

    names = [parse_reference(one.name).best_name or one.manifest.entries[0].path for one in models]
    if same := next((name for name in names if names.count(name) > 1), ""):
        raise UsageError(f"two models of the lock file are called {same}", "lock each into a file of its own")
    base, places = folder or ".", []
    for locked, name in zip(models, names, strict=True):
        if _is_file(locked):
            places.append((base, str(Path(base, locked.manifest.entries[0].path)) if folder else None))
        elif len(models) == 1 and folder:
            places.append((folder, folder))
        else:
            places.append((str(Path(base, name)), str(Path(base, name)) if folder else None))
    return places


def _is_file(locked: Locked) -> bool:
    entries = locked.manifest.entries
    return len(entries) == 1 and entries[0].reference.key == locked.manifest.reference.key

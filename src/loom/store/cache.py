"""The cache: where files lie, which blob a reference leads to, and when that may be believed.

    blobs/sha256/ab/<digest>   settled: complete, hashed, on the disk for good; read-only
    blobs/new/<name>           complete, but not hashed or not synced yet: believed only until the next reboot
    refs/<key>                 reference -> blob, one small text file each; its own time is when it was last used;
                               <key>-u<user> beside another user's
    links/<key>                notes of outputs that are symbolic links to a blob
    staging/                   parts, journals, temporary names
    quarantine/                blobs that turned out wrong

Rule: this module is on the path of a hit, so it imports next to nothing. A hit costs a read, a stat and a link.

A reference is believed when its blob is there with the size and the modification time on record. A write into a blob
through a hard link changes that time; a cut or torn blob has another size. Locks save work, nothing rests on them:
every file gets its name in one atomic step.
"""

from __future__ import annotations

import os
import time

from loom.core.keys import text_key
from loom.store.inside import Inside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from loom.store.inside import Place

NEW = "new"
SETTLED = "sha256"

UNSETTLED_S = 60.0
"""Seconds after which a blob that is still new has probably lost the process that settles it."""

_FORMAT = "loom-ref 1"
OWN = "-u"
"""Characters between key and user number, in the name of a record beside another user's."""

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_SAME_BOOT_NS = 2_000_000_000
"""Nanoseconds: boots of one machine are further apart. A clock that is set in between makes one boot look like two."""

_NAME_CHARS = frozenset("0123456789abcdefghijklmnopqrstuvwxyz-")


def user_folder(kind: str, environ: Mapping[str, str]) -> str:
    """Return the user's own folder for Loom of a kind, "cache" or "config"; "" when there is no home to have it in.

    $XDG_CACHE_HOME/loom, else ~/.cache/loom, and so on: the XDG Base Directory Specification.
    """
    home = environ.get("HOME")
    base = environ.get(f"XDG_{kind.upper()}_HOME") or (f"{home.rstrip('/')}/.{kind}" if home else "")
    return f"{base}/loom" if base else ""


def cache_root(given: str | None, environ: Mapping[str, str]) -> str:
    """Return the absolute path of the cache: `given`, else $LOOM_CACHE, else $XDG_CACHE_HOME/loom, else ~/.cache/loom.

    "" when there is no home to put it into.
    """
    chosen = given or environ.get("LOOM_CACHE") or user_folder("cache", environ)
    try:
        return os.path.abspath(chosen) if chosen else ""
    except FileNotFoundError:
        return chosen  # the working folder was removed, and so there is nothing at a path from there


FIELDS = (
    "audience", "blob", "boot_id", "checked_at", "digest", "etag", "last_modified", "mtime_ns", "name", "size", "url",
    "verified",
)  # fmt: skip
"""Names of the fields of a Ref that a record's text holds."""


class Ref:
    """The content that a reference led to.

    url: for people: secrets blanked out. name: the file's name as the origin gave it.
    blob: the blob's path below `blobs`; size: bytes; mtime_ns: its modification time when it was published.
    etag, last_modified: the origin's validators, as sent. digest: 64 hex digits, "" while it is not computed.
    verified: how the digest is known: "supplied" by the caller and matched, "told" by the origin and matched, or
    "computed" here; "" for not at all.
    audience: the nodes that may have it: "anyone", "fleet" (fetched with a credential: nodes that know the fleet's
    token), "nobody" (`--private`).
    key: of the reference, "" in a record of before 28 November 2026. A record moved to another name is not believed.
    Not part of the text: owner: the user whose file the record is, -1 while it is not written; used_at: when the
    reference was last used, seconds since 1970.
    checked_at: when the origin was last asked, seconds since 1970. boot_id: of the boot in which it was published,
    as `read_boot_id` tells it.
    """

    __slots__ = (*FIELDS, "key", "owner", "used_at")

    def __init__(
        self, url: str, name: str, blob: str, size: int, mtime_ns: int, *, etag: str = "", last_modified: str = "",
        digest: str = "", verified: str = "", checked_at: float = 0.0, boot_id: str = "",
        audience: str = "fleet",
    ) -> None:  # fmt: skip
        self.url = url
        self.name = name
        self.blob = blob
        self.size = size
        self.mtime_ns = mtime_ns
        self.etag = etag
        self.last_modified = last_modified
        self.digest = digest
        self.verified = verified
        self.checked_at = checked_at
        self.boot_id = boot_id
        self.audience = audience
        self.key = ""
        self.owner = -1
        self.used_at = 0.0

    @property
    def is_settled(self) -> bool:
        """Whether the blob is hashed and on the disk for good."""
        return self.blob.startswith(SETTLED)

    @property
    def is_overdue(self) -> bool:
        """Whether the blob should be settled by now, and has probably lost the process that was to do it."""
        return not self.is_settled and time.time() - self.mtime_ns / 1e9 >= UNSETTLED_S


def settled_blob(digest: str, user: int = -1) -> str:
    """Return where a digest's blob lies below `blobs`; `user`: where another user's file has that name."""
    return f"{SETTLED}/{digest[:2]}/{digest}" + (f"{OWN}{user}" if user >= 0 else "")


def settled_blobs(digest: str) -> tuple[str, str]:
    """Return the two names that a digest's blob can have for this user."""
    return settled_blob(digest), settled_blob(digest, os.geteuid())


def digest_of(blob: str) -> str:
    """Return the digest that a blob's name tells; "" for one that is not settled."""
    return blob.rpartition("/")[2].partition(OWN)[0] if blob.startswith(SETTLED) else ""


def format_ref(ref: Ref) -> bytes:
    """Return a reference as text: a line for each field, and one that says that it is whole."""
    lines = [f"{name} {_one_line(str(getattr(ref, name)))}" for name in FIELDS]
    lines += [f"key {ref.key}"] if ref.key else []
    return "\n".join([_FORMAT, *lines, "end", ""]).encode("utf-8", "surrogateescape")


def _one_line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")


def parse_ref(data: bytes) -> Ref | None:
    """Read back what `format_ref` wrote; None for anything else."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    if lines[0] != _FORMAT or lines[-2:] != ["end", ""]:
        return None
    fields = {name: value for name, _, value in (line.partition(" ") for line in lines[1:-2])}
    try:
        size, mtime_ns, checked_at = int(fields["size"]), int(fields["mtime_ns"]), float(fields["checked_at"])
        texts = {name: fields[name] for name in ("etag", "last_modified", "digest", "verified", "boot_id", "audience")}
        if size < 0 or not is_blob_name(fields["blob"]):
            return None
        ref = Ref(fields["url"], fields["name"], fields["blob"], size, mtime_ns, checked_at=checked_at, **texts)
    except (KeyError, ValueError):
        return None
    ref.key = fields.get("key", "")
    return ref


def is_blob_name(blob: str) -> bool:
    """Return whether this is a path below `blobs` as Loom makes them, which leads nowhere else."""
    kind, *names = blob.split("/")
    shape = {NEW: 1, SETTLED: 2}
    return len(names) == shape.get(kind) and all(name and _NAME_CHARS.issuperset(name) for name in names)


def read_boot_id() -> str:
    """Return the name of this boot of this machine: the kernel's boot id, the time of the boot in ns, and the host.

    Where /proc/sys is hidden (systemd's ProcSubset=pid) the id is "-". "" where the system tells neither id nor time:
    then only synced bytes are believed.
    """
    try:
        with open(_BOOT_ID, "rb", buffering=0) as file:
            boot_id = file.read().decode("ascii").strip()
    except (OSError, ValueError):
        boot_id = "-"
    try:
        since_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return f"{boot_id} {since_ns} {os.uname().nodename}"
    except (AttributeError, OSError):  # another system than Linux
        return "" if boot_id == "-" else boot_id


def is_same_boot(one: str, other: str) -> bool:
    """Return whether both, as `read_boot_id` tells them, are of one boot of one machine; False when it is not known.

    A boot's time is the difference of two clocks that are read one after the other, so it is never quite the same.
    """
    (boot_id, _, rest), (other_id, _, other_rest) = one.partition(" "), other.partition(" ")
    if boot_id != "-" and other_id != "-":
        return boot_id == other_id != ""
    (since, _, host), (other_since, _, other_host) = rest.partition(" "), other_rest.partition(" ")
    is_known = since.isdecimal() and other_since.isdecimal() and len(since + other_since) < 80
    return is_known and host == other_host and abs(int(since) - int(other_since)) < _SAME_BOOT_NS


class Cache:
    """One cache folder. Every method raises OSError as it comes."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.inside = Inside(root)

    def blob(self, blob: str) -> Place:
        """Return where a blob lies."""
        return self.inside.place(f"blobs/{blob}")

    def blob_path(self, blob: str) -> str:
        """Return the path of a blob, to be shown."""
        return f"{self.root}/blobs/{blob}"

    def temporary(self) -> Place:
        """Return a name that nothing has, for a file that gets its own by a rename."""
        return self.inside.place(f"staging/{os.getpid()}-{os.urandom(6).hex()}.tmp")

    def _refs(self, key: str) -> tuple[Place, ...]:
        """Return where a reference's record may lie, the first one to be believed counts.

        Where several users write, a record may be another user's: so each user can have a record of their own.
        """
        shared = self.inside.place(f"refs/{key}")
        return (self._own_ref(key), shared) if self.inside.is_shared else (shared,)

    def _own_ref(self, key: str) -> Place:
        return self.inside.place(f"refs/{key}{OWN}{os.geteuid()}")

    def read(self, key: str) -> Ref | None:
        """Return the record of a reference, believable or not; None when there is no legible one."""
        for place in self._refs(key):
            try:
                fd = place.open()
            except OSError:
                continue
            with open(fd, "rb", buffering=0) as file:
                return self.parse_record(key, file.read(), os.fstat(fd))
        return None

    def parse_record(self, key: str, data: bytes | None, seen: os.stat_result | None) -> Ref | None:
        """Return the record that a file below `refs` holds; None when it is not legible, or of another reference."""
        ref = parse_ref(data) if data is not None else None
        if ref is None or seen is None or not (ref.key == key or (not ref.key and not self.inside.is_shared)):
            return None
        ref.owner, ref.used_at = seen.st_uid, seen.st_mtime
        return ref

    def has_record(self, key: str) -> bool:
        """Return whether there is a record for a reference, legible or not, that a trusted user owns."""
        return bool(self.record_places(key))

    def record_places(self, key: str) -> list[Place]:
        """Return the files that are a reference's record, the one that counts first."""
        return [place for place in self._refs(key) if place.is_there()]

    def find(self, key: str) -> Ref | None:
        """Return the record of a reference, if its blob is there and can be believed."""
        ref = self.read(key)
        return ref if ref is not None and self.is_whole(ref) and self.has_survived(ref) else None

    def is_whole(self, ref: Ref) -> bool:
        """Return whether the blob is there as it was published, by its size and time, and may be handed out."""
        try:
            return self._is_as_recorded(ref, self.blob(ref.blob).lstat())
        except OSError:
            return False

    def open_blob(self, ref: Ref) -> int:
        """Open the blob as it was published; the caller closes it. Raises FileNotFoundError when it is another one."""
        fd = self.blob(ref.blob).open()
        if not self._is_as_recorded(ref, os.fstat(fd)):
            os.close(fd)
            raise FileNotFoundError(self.blob_path(ref.blob))
        return fd

    def _is_as_recorded(self, ref: Ref, seen: os.stat_result) -> bool:
        """Compare a blob with its record; a record opens another user's blob only if all may read that blob."""
        may_have = ref.owner in (-1, 0, os.geteuid(), seen.st_uid) or seen.st_mode & 0o004 != 0
        may_have = may_have or (seen.st_mode & 0o040 != 0 and seen.st_gid == self.inside.trust.group)
        return may_have and (seen.st_size, seen.st_mtime_ns) == (ref.size, ref.mtime_ns)

    def has_survived(self, ref: Ref) -> bool:
        """Return whether no reboot can have cost the blob bytes that were not on the disk yet."""
        return ref.is_settled or is_same_boot(ref.boot_id, read_boot_id())

    def touch(self, key: str) -> None:
        """Note that a reference was used now; nothing happens in a cache that this user may only read."""
        for place in self._refs(key):
            try:
                place.utime()
            except FileNotFoundError:
                continue
            except OSError:
                return

    def write(self, key: str, ref: Ref) -> None:
        """Write the record of a reference, in one step."""
        temporary, shared = self.temporary(), self.inside.place(f"refs/{key}")
        try:
            ref.key = key
            with open(temporary.create(os.O_WRONLY), "wb") as file:
                file.write(format_ref(ref))
            try:
                temporary.replace(shared)
                if self.inside.is_shared:
                    self._own_ref(key).unlink()
            except (PermissionError, IsADirectoryError):
                temporary.replace(self._own_ref(key))  # another user's record, which only that user may replace
        except BaseException:
            temporary.unlink()
            raise

    def amend(self, key: str, ref: Ref) -> None:
        """Change the record of a reference without a new time of use."""
        places = self.record_places(key)
        if not places:
            raise FileNotFoundError(f"{self.root}/refs/{key}")
        used = places[0].lstat()
        self.write(key, ref)
        try:
            self.record_places(key)[0].utime((used.st_atime_ns, used.st_mtime_ns))
        except (OSError, IndexError):
            return  # a file system that sets no times: then it was used now

    def pin(self, out: str) -> None:
        """Note that `out` is to be a symbolic link into this cache, so that its blob is not evicted.

        The note is a symbolic link itself, to `out`: it holds as long as `out` leads here (Nix does so, gcroots/auto).
        Nothing happens in a cache that this user may only read.
        """
        try:
            if self.inside.has_folder("blobs"):  # a cache that was removed meanwhile is not to come back
                self.inside.make_folder("links")
            self.inside.place(f"links/{text_key(out)}").symlink(out)
        except OSError:
            return

    def forget(self, key: str) -> None:
        """Remove those records of a reference that this user may remove."""
        for place in self._refs(key):
            place.unlink()

"""The identity of this node. Two machines may have one name, but not one cache in one boot."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from functools import cache

from loom.store.cache import read_boot_id

_DIGITS = 32


def node_identity(root: str) -> str:
    """Return the identity of the node whose cache is in the folder `root`, in hexadecimal digits.

    All processes of one machine that share the cache have the same identity, until the next boot. Without the folder
    ("" for no cache), or on a system that does not tell its boots apart, it is the identity of this process alone.
    """
    boot_id = _name_boot(read_boot_id())
    try:
        place = os.stat(root) if root and boot_id else None
    except OSError:
        place = None
    if place is None:
        return _own(os.getpid())
    facts = f"loom-node\n{boot_id}\n{place.st_dev}\n{place.st_ino}"
    return hashlib.sha256(facts.encode()).hexdigest()[:_DIGITS]


def _name_boot(boot_id: str) -> str:
    """Return the part that is equal in all processes: the kernel's boot id, else the minute of the boot."""
    kernel_id, _, rest = boot_id.partition(" ")
    since_ns, _, host = rest.partition(" ")
    return kernel_id if kernel_id != "-" else f"{int(since_ns) // 60_000_000_000} {host}"


def ensure_identity(root: str) -> str:
    """Return the identity of the node whose cache is in `root`; first make the folder if it is missing."""
    with contextlib.suppress(OSError):
        os.makedirs(root, exist_ok=True)
    return node_identity(root)


@cache
def _own(_process: int) -> str:
    """Return an identity that no other process has; a forked process makes a new one."""
    return secrets.token_hex(_DIGITS // 2)

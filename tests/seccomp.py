"""A filter of system calls, as systemd, container runtimes and sandboxes set: some calls are refused, or kill.

    refuse(["splice"], errno.EPERM)     from now on, in this process and those that it starts

The program is classic BPF over struct seccomp_data (linux/seccomp.h, linux/filter.h). Needs no privileges.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

KILL = -1
"""In the place of an error number: the process is killed, as by SystemCallFilter= without SystemCallErrorNumber=."""

_NUMBERS = {
    "x86_64": {
        "setpriority": 141, "getpriority": 140, "sched_setaffinity": 203, "sched_getaffinity": 204, "getrlimit": 97,
        "setrlimit": 160, "prlimit64": 302, "ioprio_set": 251, "fallocate": 285, "splice": 275, "sendfile": 40,
        "copy_file_range": 326, "fadvise64": 221, "setxattr": 188, "fsetxattr": 190, "getxattr": 191, "fgetxattr": 193,
        "flock": 73, "statfs": 137, "fstatfs": 138, "fchmod": 91, "utimensat": 280, "setsockopt": 54,
    },
    "aarch64": {
        "setpriority": 140, "getpriority": 141, "sched_setaffinity": 122, "sched_getaffinity": 123, "getrlimit": 163,
        "setrlimit": 164, "prlimit64": 261, "ioprio_set": 30, "fallocate": 47, "splice": 76, "sendfile": 71,
        "copy_file_range": 285, "fadvise64": 223, "setxattr": 5, "fsetxattr": 7, "getxattr": 8, "fgetxattr": 10,
        "flock": 32, "statfs": 43, "fstatfs": 44, "fchmod": 52, "utimensat": 88, "setsockopt": 208,
    },
}  # fmt: skip

_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_NO_NEW_PRIVS, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def is_possible() -> bool:
    """Return whether this machine has filters, and its numbers of system calls are known here."""
    return platform.system() == "Linux" and platform.machine() in _NUMBERS


def refuse(calls: list[str], code: int) -> None:
    """Have system calls fail with an error number, or kill. Raises OSError."""
    numbers = [_NUMBERS[platform.machine()][call] for call in calls]
    answer = _KILL_PROCESS if code == KILL else _ERRNO | code
    steps = [(_LOAD, 0, 0, 0)]
    for at, number in enumerate(numbers):
        steps.append((_JUMP_EQUAL, len(numbers) - at, 0, number))
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, answer)]
    text = b"".join(struct.pack("=HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(text, len(text))
    program = _Program(len(steps), ctypes.addressof(buffer))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
    if prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(program), 0, 0):
        raise OSError(ctypes.get_errno() or errno.EINVAL, os.strerror(ctypes.get_errno()))

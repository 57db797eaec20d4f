"""Checks of a file's content against its name. A login page saved as weights would start a server that cannot serve."""

from __future__ import annotations

from posixpath import splitext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_PAGE_SUFFIXES = frozenset((".html", ".htm", ".xhtml"))
_WEIGHT_SUFFIXES = frozenset((".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".pkl", ".npz"))
_PAGE_STARTS = (b"<!doctype html", b"<html", b"<head", b"<script")

_GZIP, _BZIP2, _XZ = (".gz", ".tgz", ".taz"), (".bz2", ".tbz", ".tbz2"), (".xz", ".txz")
_CODED_SUFFIXES = {
    "gzip": _GZIP, "x-gzip": _GZIP, "bzip2": _BZIP2, "x-bzip2": _BZIP2, "bzip": _BZIP2, "xz": _XZ, "x-xz": _XZ,
    "zstd": (".zst", ".tzst"), "br": (".br",), "compress": (".z",), "x-compress": (".z",), "lz4": (".lz4",),
}  # fmt: skip
"""Suffixes of files that a content coding makes, by its label. x- labels are the older spelling (RFC 9110 8.4.1)."""

_NO_CODINGS = frozenset(("", "identity", "none", "binary", "utf-8", "aws-chunked"))
"""Labels that change no bytes. After an upload in signed parts some S3 stores keep "aws-chunked" as the label."""

SNIFF_SIZE = 512
"""Bytes of the file's beginning that `judge_beginning` needs."""


def telling_name(name: str, other: str) -> str:
    """Return `name`, or `other` if only its suffix tells the kind of file: a name like `output` does not."""
    kinds = _PAGE_SUFFIXES | _WEIGHT_SUFFIXES
    return other if _suffix(name) not in kinds and _suffix(other) in kinds else name


def is_unwanted_page(content_type: str, name: str) -> bool:
    """Return whether a reply of this Content-Type is a web page although `name` is not a page's name."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in ("text/html", "application/xhtml+xml") and _suffix(name) not in _PAGE_SUFFIXES


def coding_of(label: str) -> str:
    """Return the codings that a Content-Encoding names, in lower case; "" when it leaves the bytes as they are."""
    codings = (part.strip() for part in label.lower().split(","))
    return ", ".join(coding for coding in codings if coding not in _NO_CODINGS)


def suffix_of(coding: str) -> str:
    """Return the usual suffix of files that the coding makes; "" when there is none."""
    return _CODED_SUFFIXES.get(coding, ("",))[0]


def is_named_coded(coding: str, names: Iterable[str]) -> bool:
    """Return whether one of these names has a suffix of the coding: then the label describes the stored file.

    Servers label a stored `.tar.gz` with gzip: Apache with AddEncoding, Flask, Django, Twisted. Its bytes and ranges
    are the file's own.
    """
    return any(_suffix(name) in _CODED_SUFFIXES.get(coding, ()) for name in names)


def is_page_as_weights(beginning: bytes, name: str) -> bool:
    """Return whether a file that is named like weights begins like a web page."""
    start = beginning[:SNIFF_SIZE].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return _suffix(name) in _WEIGHT_SUFFIXES and start.startswith(_PAGE_STARTS)


def judge_beginning(beginning: bytes, name: str) -> str:
    """Return a warning when the beginning lacks its format's magic, else "".

    A GGUF file begins with "GGUF" (the GGUF specification). A safetensors file begins with the length of its JSON
    header in 8 bytes, little-endian, and the header's "{".
    """
    suffix = _suffix(name)
    if suffix == ".gguf" and not beginning.startswith(b"GGUF"):
        return f"{name} does not begin as a GGUF file does"
    if suffix == ".safetensors" and beginning[8:9] != b"{":
        return f"{name} does not begin as a safetensors file does"
    return ""


def _suffix(name: str) -> str:
    return splitext(name)[1].lower()

"""Does what came look like what was asked for? A login page saved as weights starts a server that cannot serve."""

from __future__ import annotations

from posixpath import splitext

_PAGE_SUFFIXES = frozenset((".html", ".htm", ".xhtml"))
_WEIGHT_SUFFIXES = frozenset((".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".pkl", ".npz"))
_PAGE_STARTS = (b"<!doctype html", b"<html", b"<head", b"<script")

SNIFF_SIZE = 512
"""Bytes of the file's beginning that `judge_beginning` wants."""


def telling_name(name: str, other: str) -> str:
    """Return `name`, but `other` where that alone tells by its suffix what kind of file it is: `output` does not."""
    kinds = _PAGE_SUFFIXES | _WEIGHT_SUFFIXES
    return other if _suffix(name) not in kinds and _suffix(other) in kinds else name


def is_unwanted_page(content_type: str, name: str) -> bool:
    """Return whether a reply of this Content-Type is a web page though `name` is not one's."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in ("text/html", "application/xhtml+xml") and _suffix(name) not in _PAGE_SUFFIXES


def is_page_as_weights(beginning: bytes, name: str) -> bool:
    """Return whether a file with a name for weights begins as a web page does."""
    start = beginning[:SNIFF_SIZE].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return _suffix(name) in _WEIGHT_SUFFIXES and start.startswith(_PAGE_STARTS)


def judge_beginning(beginning: bytes, name: str) -> str:
    """Return a warning when the beginning lacks its format's magic, else "".

    GGUF files begin with "GGUF" (the GGUF specification); a safetensors file with the length of its JSON header in
    8 bytes, little-endian, and that header's "{".
    """
    suffix = _suffix(name)
    if suffix == ".gguf" and not beginning.startswith(b"GGUF"):
        return f"{name} does not begin as a GGUF file does"
    if suffix == ".safetensors" and beginning[8:9] != b"{":
        return f"{name} does not begin as a safetensors file does"
    return ""


def _suffix(name: str) -> str:
    return splitext(name)[1].lower()

"""Names that URLs and servers suggest are safe, keep their endings, and stay apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.core.file_names import MAX_BYTES, file_name, last_part, safe_name
from loom.core.headers import parse_disposition

ODD = st.characters(codec=None) | st.sampled_from("/\\.-\0\n\r\x1b\u202e\ud800 ~")
STEM = "Some-Very-Long-Merge-Of-Models-" * 8


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/a/model.gguf?x=1", "model.gguf"),
        ("https://h/a%20b.gguf", "a b.gguf"),
        ("https://h/", ""),
        ("https://h", ""),
        ("https://h/..%2F..%2Fetc%2Fpasswd.txt", "passwd.txt"),
        ("https://h/..", ""),
        ("https://h/%2e%2e", ""),
        ("https://h/.hidden.gguf", ""),
        ("https://h/.%00.%2Fx%0A.gguf", "x.gguf"),
        ("https://h/a%5Cb.gguf", "b.gguf"),
        ("https://h/%E4%B8%AD.gguf", "中.gguf"),
        ("https://h/\udcff.gguf", ""),
        ("https://[bad/x.gguf", ""),
        ("https://h/-o.gguf", ""),
        ("https://h/--help.gguf", ""),
        ("https://h/llama", ""),
        ("https://h/download.php", ""),
        ("https://h/api/v1/models/o/m/repo?Revision=master&FilePath=sub%2Fmodel.safetensors", "model.safetensors"),
        ("https://h/download.php?file=a+b.gguf&x=1", "a b.gguf"),
        ("https://h/x.bin?file=..%2F..%2F.bashrc", "x.bin"),
        ("https://h/x.bin?file=-rf.bin", "x.bin"),
        ("https://h/x.bin?file=7", "x.bin"),
        ("https://h/get?filename=model.gguf", "model.gguf"),
    ],
)
def test_names_that_urls_tell(url: str, name: str) -> None:
    """The query that selects the file, else the path's last part with a suffix; decoded, never with a folder."""
    assert file_name(url) == name


@pytest.mark.parametrize(
    ("url", "name"),
    [("https://h/models/llama", "llama"), ("https://h/a/", ""), ("https://h/-o", ""), ("https://[bad/x", "")],
)  # fmt: skip
def test_the_last_part(url: str, name: str) -> None:
    """What a file is called when nothing tells a better name."""
    assert last_part(url) == name


@pytest.mark.parametrize("name", ["-o", "--help", "-", ".", "..", ".bashrc", "", " ", "\x1b", "a/", "../.."])
def test_what_is_no_name(name: str) -> None:
    """What would be a flag, a folder, hidden or invisible is no name, whether the URL or the origin suggests it."""
    assert safe_name(name) == ""
    assert parse_disposition(f'attachment; filename="{name}"') == ""


def test_long_names_stay_apart() -> None:
    """A name that a file can have stays as it is; a longer one keeps its ending and its difference."""
    fits = [f"{STEM[:200]}-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert [safe_name(name) for name in fits] == fits
    ends = [safe_name(f"{STEM * 2}-0000{n}-of-00002.safetensors") for n in (1, 2)]
    middles = [safe_name(f"{STEM}{n}{STEM}-00001-of-00002.safetensors") for n in (1, 2)]
    assert len({*ends, *middles}) == 4
    assert all(name.endswith("-of-00002.safetensors") and len(name) <= MAX_BYTES for name in (*ends, *middles))


@given(st.text(ODD, max_size=400))
def test_safe_names_are_safe(text: str) -> None:
    """No folder, no control character, no hidden file, no flag, short enough for any file system; safe as it is."""
    name = safe_name(text)
    assert not {"/", "\\"} & set(name)
    assert name.isprintable()
    assert not name.startswith((".", "-"))
    assert len(name.encode()) <= MAX_BYTES
    assert safe_name(name) == name


@given(st.text(ODD, max_size=60), st.text(ODD, max_size=60))
def test_names_of_any_url_are_safe(path: str, value: str) -> None:
    """Whatever stands in path and query, the name is one or none."""
    for name in (file_name(f"https://h/{path}?file={value}"), last_part(f"https://h/{path}?file={value}")):
        assert safe_name(name) == name

"""What people read."""

from __future__ import annotations

import pytest

from loom.cli.output import (
    error_to_dict,
    format_bar,
    format_duration,
    format_error,
    format_progress,
    format_receipt,
    printable,
    shorten,
)
from loom.cli.output import format_size as size
from loom.core.receipt import Progress, Receipt
from loom.errors import NotFound, StoreFull

RECEIPT = Receipt(
    url="https://h/m.gguf", out="/models/m.gguf", size=2_700_000_000, elapsed_s=2.0, bytes_per_second=1.35e9,
    requests=19, retries=1, workers=16, ranges=True, sources={"origin": 2_700_000_000}, resumed=0, outcome="fetched",
    digest=None, version='"e"',
)  # fmt: skip


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (999_600, "1.00 MB"), (2.7e9, "2.70 GB"), (65.5e6, "65.5 MB"),
     (612e6, "612 MB"), (5e15, "5000 TB")],
)  # fmt: skip
def test_sizes_have_three_digits(number: float, text: str) -> None:
    """Decimal units, three digits, no jump at a unit's edge."""
    assert size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.007, "7 ms"), (2.14, "2.1 s"), (59.96, "1 min 00 s"), (200, "3 min 20 s"), (3900, "1 h 05 min")],
)
def test_times_are_said_as_people_do(seconds: float, text: str) -> None:
    """Milliseconds, seconds, minutes, hours, as far as each matters."""
    assert format_duration(seconds) == text


def test_progress_fits_any_width() -> None:
    """The line never wraps, whatever the terminal's width."""
    progress = Progress("fetching", 2_700_000_000, 1_350_000_000, 0, 6e8, 16, 2, "throttled by the origin")
    for width in range(20, 200):
        assert len(format_progress("model.gguf", progress, width)) <= width


def test_progress_says_what_matters() -> None:
    """Bytes, share, rate, time to go, workers; retries only when there are some."""
    line = format_progress("m", Progress("fetching", 200, 100, 0, 50.0, 1, 0), 120)
    assert line == f"m  {format_bar(0.5)}   50 %  100 B of 200 B  50 B/s  eta 2.0 s  1 worker"
    assert "3 retries" in format_progress("m", Progress("fetching", 200, 100, 0, 50.0, 2, 3), 120)


def test_progress_of_what_has_all_arrived() -> None:
    """Peers may still be asked to vouch for it: nothing is being fetched, so there is no rate, and nobody at work."""
    line = format_progress("m", Progress("fetching", 200, 200, 0, 50.0), 120)
    assert line == f"m  {format_bar(1.0)}  100 %  200 B of 200 B  finishing"
    assert format_progress("m", Progress("fetching", 200, 200, note="asking peers"), 120).endswith("  asking peers")


def test_progress_without_a_size_claims_nothing() -> None:
    """Where the origin tells no length there is no share and no time to go."""
    line = format_progress("m", Progress("fetching", None, 100, 0, 50.0, 1, 0), 120)
    assert line == "m  100 B  50 B/s  1 worker"


def test_waiting_says_for_what() -> None:
    """A note takes the place of the figures while nothing moves."""
    assert format_progress("m", Progress("waiting", note="another process"), 80) == "m  another process"
    assert format_progress("m", Progress("connecting"), 80) == "m  connecting ..."


def test_the_last_line_says_what_happened() -> None:
    """Size, time, rate, requests, retries and bytes by source."""
    line = "m.gguf  2.70 GB in 2.0 s  1.35 GB/s  19 requests  1 retry  2.70 GB from origin"
    assert format_receipt(RECEIPT, "/models") == line


def test_the_last_line_tells_resumed_and_verified() -> None:
    """What was there before, and that the digest was verified, are said when so."""
    from dataclasses import replace

    line = format_receipt(
        replace(RECEIPT, resumed=10**9, verified_by="sha256 given by --sha256", outcome="resumed"), "/models"
    )
    assert line.endswith("1.00 GB were here  sha256 verified")
    present = format_receipt(replace(RECEIPT, outcome="present", requests=1), "/models")
    assert present == "m.gguf  2.70 GB  already here and current  1 request"


def test_the_last_line_says_where() -> None:
    """The path is as seen from the working folder: short inside it, whole outside."""
    for folder, path in (
        ("/models", "m.gguf"),
        ("/", "models/m.gguf"),
        ("/home", "/models/m.gguf"),
        ("", "/models/m.gguf"),
    ):
        assert format_receipt(RECEIPT, folder).split("  ")[0] == path


def test_a_long_name_gives_way_to_the_figures() -> None:
    """On 80 columns the share, the rate and the time to go are seen whatever the model is called."""
    progress = Progress("fetching", 2_700_000_000, 1_350_000_000, 0, 6e8, 16, 0)
    line = format_progress("Meta-Llama-3.1-70B-Instruct-Q4_K_M-00001-of-00002.gguf", progress, 79)
    assert line.startswith("Meta-L")
    assert ".gguf   50 %" in line
    assert line.endswith("600 MB/s  eta 2.2 s  16 workers")


@pytest.mark.parametrize("length", range(1, 12))
def test_shortened_text_fits(length: int) -> None:
    """No more than asked for, and untouched when it fits."""
    assert len(shorten("abcdefghij", length)) == min(length, 10)


def test_wide_characters_count_twice() -> None:
    """A name in Chinese does not make the line wrap."""
    line = format_progress("模型" * 5, Progress("connecting", note="x" * 90), 60)
    assert len(line) + line.count("模") + line.count("型") <= 60


def test_no_name_steers_the_terminal() -> None:
    """Control characters in names, notes and errors are not passed on."""
    assert printable("a\x1b[31m\nb\udcff") == "a?[31m?b?"
    shown = format_progress("\x1b[2J", Progress("connecting", note="\x07"), 80) + format_error(StoreFull("\x1b", "\r"))
    assert not set(shown) & set("\x1b\x07\r")


def test_an_endless_eta_is_left_out() -> None:
    """A time to go of weeks is no forecast."""
    assert "eta" not in format_progress("m", Progress("fetching", 10**12, 0, 0, 1.0, 1, 0), 120)


def test_errors_say_what_and_what_to_do() -> None:
    """One line for what and where, one for the hint, none for an empty hint; JSON has all facts."""
    assert (
        format_error(NotFound("x does not exist", "check the URL")) == "loom: x does not exist\n  hint: check the URL"
    )
    assert format_error(StoreFull("full")) == "loom: full"
    facts = {"kind": "not-found", "message": "x", "hint": "y", "exit_code": 4}
    assert error_to_dict(NotFound("x", "y")) == {"error": facts}


def test_a_model_is_one_line() -> None:
    """How many files are done stands beside the bytes of all of them, with rate and time left."""
    progress = Progress("fetching", 2_000_000_000, 500_000_000, 0, 100e6, 16, files=42, files_done=31)
    line = format_progress("llama", progress, 120, ascii_only=True, has_bar=False)
    assert line == "llama   25 %  500 MB of 2.00 GB  31/42 files  100 MB/s  eta 15.0 s  16 workers"

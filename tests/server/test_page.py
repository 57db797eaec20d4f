"""The page, in a real browser, over a real control plane."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from loom.server import live
from tests.server.browser import DEADLINE_MS, Watched, headless
from tests.server.plane import Plane, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Locator, Page

GB = 10**9

Opens = "Callable[..., Page]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests."""
    with headless() as one:
        yield one


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Look for news more often than once a second: nobody is to wait for it."""
    monkeypatch.setattr(live, "PERIOD_S", 0.05)


@pytest.fixture
def plane(browser, tmp_path) -> Iterator[Plane]:
    """A control plane without a token."""
    with running(tmp_path) as one:
        yield one


@pytest.fixture
def watched(browser, plane) -> Iterator[Watched]:
    """A page that is to do nothing wrong."""
    one = Watched(browser)
    yield one
    one.close(plane.url)


@pytest.fixture
def page(watched, plane) -> Page:
    """The page, opened."""
    return opened(watched, plane)


def opened(watched: Watched, plane: Plane) -> Page:
    """Open the page, and wait for its first view."""
    watched.page.goto(plane.url)
    watched.page.wait_for_selector("[data-state=live]")
    return watched.page


def expect(one: Any) -> Any:
    """Return playwright's assertions, which wait for what they assert."""
    from playwright.sync_api import expect as really

    really.set_options(timeout=DEADLINE_MS)
    return really(one)


def row(page: Page, table: str, name: str) -> Locator:
    """Return the row of a node or model, by its whole name."""
    return page.locator(f"#{table} > .scroll > table > tbody > .row").filter(
        has=page.locator(f"bdi[title={json.dumps(name)}]")
    )


def cell(one: Locator, label: str) -> Locator:
    """Return a cell of a row."""
    return one.locator(f"[data-label={label!r}]")


def names(page: Page, table: str) -> list[str]:
    """Return the names in a table, from the top."""
    return page.locator(f"#{table} > .scroll > table > tbody > .row > th").all_inner_texts()


def fetch(plane: Plane, received: int, node: str = "b") -> None:
    """Say how far a fetch is: a quarter came from the origin."""
    origin = received // 4
    plane.post(
        "/register", node=node, model="m", state="partial", size=8 * GB, received=received,
        from_origin=origin, from_peers=received - origin, ttl_s=60,
    )  # fmt: skip


def test_nodes_and_models_are_shown(plane, page) -> None:
    """What was registered is there, counted in the head; what is registered later appears by itself."""
    expect(page.locator("#welcome")).to_contain_text(f"curl {plane.url}/register")
    plane.post("/register", node="a", model="m", size=3 * GB, zone="rack1")
    expect(cell(row(page, "nodes", "a"), "Zone")).to_have_text("rack1")
    expect(cell(row(page, "models", "m"), "Size")).to_have_text("3.00\u00a0GB")
    expect(page.locator("#welcome")).to_be_hidden()
    expect(page.locator("#fetches .none")).to_have_text("Nothing is being fetched.")
    plane.post("/register", node="b", model="m2")
    expect(row(page, "nodes", "b")).to_be_visible()
    expect(page.locator("#all-nodes")).to_have_text("2")
    expect(page.locator("#all-models")).to_have_text("2")
    plane.ask("DELETE", "/register", {"node": "a"})
    expect(row(page, "nodes", "a")).to_have_count(0)
    expect(row(page, "models", "m")).to_have_count(0)
    assert names(page, "nodes") == ["b"]


def test_a_fetch_advances(plane, page) -> None:
    """Progress, rate, what is left, and whence it came, in the table, the head and the title."""
    fetch(plane, 2 * GB)
    one = page.locator("#fetches .row")
    bar = one.get_by_role("progressbar", name="m, b")
    expect(bar).to_have_attribute("aria-valuenow", "25")
    fetch(plane, 4 * GB)
    expect(bar).to_have_attribute("aria-valuenow", "50")
    expect(one).to_contain_text("50\u00a0%")
    expect(cell(one, "Rate")).to_contain_text("B/s")
    expect(cell(one, "Left")).to_contain_text("s")
    expect(cell(one, "Peers")).to_have_text("75\u00a0%")
    expect(page.locator("#from-peers")).to_have_text("3.00\u00a0GB (75\u00a0%)")
    expect(page.locator("#from-origin")).to_have_text("1.00\u00a0GB")
    expect(page).to_have_title("1 fetching · Loom")
    plane.ask("DELETE", "/register", {"node": "b"})
    expect(one).to_have_count(0)
    expect(page).to_have_title("Loom")


def test_the_keyboard_is_enough(plane, page) -> None:
    """Search, open what it finds, walk the rows, close, clear."""
    for number in range(3):
        plane.post("/register", node=f"node{number}", model="m", address="http://127.0.0.1:3001")
    page.wait_for_selector("#nodes .row >> nth=2")
    page.keyboard.press("/")
    page.keyboard.type("node1")
    expect(page.locator("#some-nodes")).to_have_text("1 of 3")
    expect(page.locator("#found")).to_have_text("1 nodes and 0 models found")
    page.keyboard.press("Enter")
    button = row(page, "nodes", "node1").get_by_role("button")
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(button).to_be_focused()
    detail = page.locator("#nodes .detail")
    expect(detail).to_contain_text("http://127.0.0.1:3001")
    expect(detail.locator(".row")).to_contain_text("complete")
    page.keyboard.press("Escape")
    expect(detail).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.locator("#search")).to_have_value("")
    expect(row(page, "nodes", "node0")).to_be_visible()
    expect(button).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(row(page, "nodes", "node0").get_by_role("button")).to_be_focused()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('section').id") == "models"
    page.keyboard.press("/")
    page.keyboard.type("nothing")
    expect(page.locator("#nodes .none")).to_have_text("No node matches “nothing”.")
    page.keyboard.press("Escape")
    expect(page.locator("#some-nodes")).to_have_text("3")


def test_a_search_that_was_typed_ahead_opens_what_it_finds(plane, page) -> None:
    """Enter at once after the text waits for the view that answers it."""
    plane.post("/register", node="a", model="m")
    plane.post("/register", node="b", model="wanted")
    page.keyboard.press("/")
    page.keyboard.type("wanted\n")
    expect(row(page, "models", "wanted").get_by_role("button")).to_be_focused()
    expect(page.locator("#models .detail .row")).to_contain_text("b")


def test_heads_sort(plane, page) -> None:
    """By name at first; numbers go down, then up; rows follow what becomes of their numbers."""
    for number, load in enumerate((3, 9, 1)):
        plane.post("/heartbeat", node=f"n{number}", load=load, inventory=[])
    page.wait_for_selector("#nodes .row >> nth=2")
    head = page.locator("#nodes th", has_text="Load")
    head.get_by_role("button").press("Enter")
    expect(head).to_have_attribute("aria-sort", "descending")
    assert names(page, "nodes") == ["n1", "n0", "n2"]
    row(page, "nodes", "n2").get_by_role("button").focus()
    plane.post("/heartbeat", node="n2", load=99, inventory=[])
    expect(cell(row(page, "nodes", "n2"), "Load")).to_have_text("99")
    assert names(page, "nodes") == ["n2", "n1", "n0"]
    expect(row(page, "nodes", "n2").get_by_role("button")).to_be_focused()
    head.get_by_role("button").press("Enter")
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert names(page, "nodes") == ["n0", "n1", "n2"]


def test_details_stay_true(plane, page) -> None:
    """What is open is asked again with every view; focus in a row that goes moves to its neighbour."""
    plane.post("/register", node="a", model="m")
    row(page, "models", "m").click()
    holders = page.locator("#models .detail .row")
    expect(holders).to_have_count(1)
    plane.post("/register", node="b", model="m")
    expect(holders).to_have_count(2)
    row(page, "nodes", "a").get_by_role("button").focus()
    plane.ask("DELETE", "/register", {"node": "a"})
    expect(holders).to_have_count(1)
    expect(row(page, "nodes", "b").get_by_role("button")).to_be_focused()


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", "&amp;<b>", "a/b c?d#e%2Ff%", "/x//y", "模型😀", "w" * 250]
)
def test_hostile_names_stay_text(plane, page, name) -> None:
    """A name is shown as it is, becomes no element, and can be asked for."""
    plane.post("/register", node=name, model=name, zone=name[:128])
    for table in ("nodes", "models"):
        one = row(page, table, name)
        assert one.locator("bdi").text_content() == name
        one.click()
        assert page.locator(f"#{table} .detail .row bdi").text_content() == name
    assert page.locator("img, td b").count() == 0


def test_characters_that_cannot_be_seen_are_shown(page) -> None:
    """What turns a name around, or hides in it, stands there as its code point."""
    shown = page.evaluate("async (text) => (await import('/page.js')).visible(text)", "a\u202eb\u200b\n\u2028é")
    assert shown == "a‹U+202E›b‹U+200B›‹U+A›‹U+2028›é"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("formatBytes(0)", "0 B"), ("formatBytes(999)", "999 B"), ("formatBytes(999499)", "999 kB"),
        ("formatBytes(999500)", "1.00 MB"), ("formatBytes(2.7e9)", "2.70 GB"), ("formatBytes(2 ** 53)", "9.01 PB"),
        ("formatTime(0.2)", "1 s"), ("formatTime(60)", "1 min 0 s"), ("formatTime(1800)", "30 min"),
        ("formatTime(3599.5)", "1 h 0 min"), ("formatTime(1e5)", "1 d"),
    ],
)  # fmt: skip
def test_figures(page, call, text) -> None:
    """Sizes are decimal with three digits; times have at most two units."""
    assert page.evaluate(f"import('/page.js').then((it) => it.{call})").replace("\u00a0", " ") == text


def test_untouched_rows_stay_the_same_elements(plane, page) -> None:
    """With 500 nodes, a view in which one has changed touches the cell of that one."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: plane.post("/register", node=f"node{n}", model=f"m{n % 9}"), range(510)))
    expect(page.locator("#some-nodes")).to_have_text("500 of 510; search to narrow")
    page.evaluate("""() => {
        window.touched = new Set();
        window.before = [...document.querySelectorAll("#nodes .row")];
        new MutationObserver((all) => all.forEach((one) => touched.add(one.target.closest("tr, tbody").innerText)))
            .observe(document.querySelector("#nodes tbody"), { subtree: true, childList: true, characterData: true });
    }""")
    for load in (1, 2):
        plane.post("/heartbeat", node="node77", load=load)
        expect(cell(row(page, "nodes", "node77"), "Load")).to_have_text(str(load))
    touched, are_same = page.evaluate("""() => [
        [...touched], before.every((one, i) => one === document.querySelectorAll("#nodes .row")[i])
    ]""")
    assert len(touched) == 1
    assert touched[0].startswith("node77")
    assert are_same


def test_a_lost_connection_is_told_and_found_again(watched, tmp_path, browser) -> None:
    """The control plane stops: the page says so and keeps what it has; it starts again: so does the page."""
    watched.foreseen = ["net::ERR_"]
    with running(tmp_path / "..") as first:
        first.post("/register", node="a", model="m")
        one = Watched(browser)
        one.foreseen = ["net::ERR_"]
        page = opened(one, first)
        expect(row(page, "nodes", "a")).to_be_visible()
    expect(page.locator("#status")).to_have_text("Connection lost")
    expect(page.locator("#age")).to_contain_text("what is shown is")
    expect(row(page, "nodes", "a")).to_be_visible()
    with running(tmp_path / "..", port=first.address[1]) as again:
        again.post("/register", node="b", model="m")
        expect(row(page, "nodes", "b")).to_be_visible()
        expect(page.locator("#status")).to_have_text("Live")
        expect(page.locator("#age")).to_be_empty()
        one.close(first.url)

"""The page, in a real browser, over a real control plane."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from loom.control import live
from tests.control.browser import DEADLINE_MS, headless, visit
from tests.control.plane import Plane, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Locator, Page

GB = 10**9

LOST = "net::ERR_"
REFUSED = "401 (Unauthorized)"
"""What the browser itself logs."""


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
def page(browser, plane) -> Iterator[Page]:
    """The page, opened, with its first view."""
    with visit(browser, plane.url) as one:
        yield one


def expect(one: Any) -> Any:
    """Return playwright's assertions, which wait for what they assert."""
    from playwright.sync_api import expect as really

    really.set_options(timeout=DEADLINE_MS)
    return really(one)


def row(page: Page, table: str, name: str) -> Locator:
    """Return the row of a node or model, by its whole name."""
    return page.locator(f"#{table} > .scroll > table > tbody > .row").filter(
        has=page.locator(f"bdi[title={json.dumps(name, ensure_ascii=False)}]")
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


def test_who_is_rejected_is_shown_when_there_is_somebody(plane, page) -> None:
    """How many others were handed wrong bytes by a node; a column of nothing takes no room from the names."""
    page.set_viewport_size({"width": 1280, "height": 900})
    for name in ("gpu-0001", "gpu-0002"):
        plane.post("/heartbeat", node=name, served=25_900_000_000, inventory=[{"model": "m"}])
    count = cell(row(page, "nodes", "gpu-0001"), "Rejected by")
    expect(row(page, "nodes", "gpu-0001")).to_be_visible()
    expect(count).to_be_hidden()
    plane.post("/register", node="gpu-0002", model="m", rejected=["gpu-0001"])
    expect(count).to_have_text("1")
    expect(cell(row(page, "nodes", "gpu-0002"), "Rejected by")).to_have_text("")
    cut = "them => them.filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.textContent)"
    assert page.locator("#nodes bdi, #nodes th, #nodes td").evaluate_all(cut) == []


def test_a_fetch_advances(plane, page) -> None:
    """Progress, rate, what is left, and whence it came, in the table, the head and the title."""
    fetch(plane, 2 * GB)
    one = page.locator("#fetches .row").first
    bar = one.get_by_role("progressbar", name="m")
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
    expect(page.locator("#found")).to_have_text("1 node and 0 models found")
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
    row(page, "nodes", "a").get_by_role("button").press("Enter")
    plane.ask("DELETE", "/register", {"node": "a"})
    expect(holders).to_have_count(1)
    expect(row(page, "nodes", "b").get_by_role("button")).to_be_focused()


HOSTILE = ("<img src=x onerror=alert(1)>", "&amp;<b>", "a/b c?d#e%2Ff%", "/x//y", "模型😀", "w" * 250)


def test_hostile_names_stay_text(plane, page) -> None:
    """A name is shown as it is, becomes no element, and can be asked for."""
    for name in HOSTILE:
        plane.post("/register", node=name, model=name, zone=name[:128])
    for name in HOSTILE:
        for table in ("nodes", "models"):
            one = row(page, table, name)
            assert one.locator("bdi").text_content() == name
            one.click()
            assert page.locator(f"#{table} .detail .row bdi").text_content() == name
            one.click()
    assert page.locator("img, td b").count() == 0


def test_characters_that_cannot_be_seen_are_shown(page) -> None:
    """What turns a name around, or hides in it, stands there as its code point."""
    shown = page.evaluate("async (text) => (await import('/table.js')).visible(text)", "a\u202eb\u200b\n\u2028é")
    assert shown == "a<U+202E>b<U+200B><U+A><U+2028>é"


FIGURES = {
    "formatBytes(0)": "0 B", "formatBytes(999)": "999 B", "formatBytes(999499)": "999 kB",
    "formatBytes(999500)": "1.00 MB", "formatBytes(2.7e9)": "2.70 GB", "formatBytes(2 ** 53)": "9.01 PB",
    "formatTime(0.2)": "1 s", "formatTime(59.5)": "1 min 0 s", "formatTime(1800)": "30 min",
    "formatTime(3599.5)": "1 h 0 min", "formatTime(86399.5)": "1 d",
}  # fmt: skip


def test_figures(page) -> None:
    """Sizes are decimal with three digits; times have at most two units."""
    calls = ", ".join(f"it.{call}" for call in FIGURES)
    found = page.evaluate(f"import('/table.js').then((it) => [{calls}])")
    assert [one.replace("\u00a0", " ") for one in found] == list(FIGURES.values())


def test_untouched_rows_stay_the_same_elements(plane, page) -> None:
    """With 500 nodes, a view in which one has changed touches the cell of that one."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: plane.post("/register", node=f"node{n}", model=f"m{n % 9}"), range(510)))
    expect(page.locator("#some-nodes")).to_have_text("500 of 510; search to narrow")
    page.evaluate("""() => {
        window.touched = new Set();
        window.before = [...document.querySelectorAll("#nodes .row")];
        new MutationObserver((all) => all.forEach((one) => touched.add(one.target.closest("tr, tbody"))))
            .observe(document.querySelector("#nodes tbody"), { subtree: true, childList: true, characterData: true });
    }""")
    for load in (1, 2):
        plane.post("/heartbeat", node="node77", load=load)
        expect(cell(row(page, "nodes", "node77"), "Load")).to_have_text(str(load))
    touched, are_same = page.evaluate("""() => [
        [...touched].map((one) => one.innerText),
        [...document.querySelectorAll("#nodes .row")].every((one, i) => one === before[i]),
    ]""")
    assert len(touched) == 1
    assert touched[0].startswith("node77")
    assert are_same


def test_a_lost_connection_is_told_and_found_again(browser, tmp_path) -> None:
    """The control plane stops: the page says so and keeps what it has; it starts again: so does the page."""
    with contextlib.ExitStack() as stack:
        with running(tmp_path) as plane:
            plane.post("/register", node="a", model="m")
            page = stack.enter_context(visit(browser, plane.url, LOST))
            expect(row(page, "nodes", "a")).to_be_visible()
        expect(page.locator("#status")).to_have_text("Connection lost")
        expect(page.locator("#age")).to_contain_text("this view is")
        expect(row(page, "nodes", "a")).to_be_visible()
        again = stack.enter_context(running(tmp_path, port=plane.address[1]))
        again.post("/register", node="b", model="m")
        expect(row(page, "nodes", "b")).to_be_visible()
        expect(page.locator("#status")).to_have_text("Live")
        expect(page.locator("#age")).to_be_empty()


def test_a_control_plane_that_is_busy_is_asked_again(browser, plane, monkeypatch) -> None:
    """A status that is no view is told, and tried again."""
    with visit(browser, plane.url, "503 (Service Unavailable)") as page:
        monkeypatch.setattr(live, "MAX_VIEWERS", 0)
        page.locator("#search").fill("x")
        expect(page.locator("#status")).to_have_text("The control plane answers 503")
        monkeypatch.undo()
        expect(page.locator("#status")).to_have_text("Live")


def test_a_token_is_asked_for(browser, tmp_path) -> None:
    """A wrong one is told, the right one opens; it is kept for the tab alone, and stands in no address."""
    with running(tmp_path, token="sésame 7") as plane, visit(browser, plane.url, REFUSED) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        plane.headers = {"Authorization": "Bearer sésame 7".encode().decode("latin-1")}
        plane.post("/register", node="a", model="m")
        expect(page.locator("#token")).to_be_focused()
        expect(page.locator("#main")).to_be_hidden()
        expect(page.locator("#refused")).to_be_empty()
        page.keyboard.type("open\n")
        expect(page.locator("#refused")).to_have_text("That token was refused.")
        page.keyboard.type("sésame 7\n")
        row(page, "nodes", "a").click()
        expect(page.locator("#nodes .detail .row")).to_contain_text("m")
        expect(page.locator("#lock")).to_be_hidden()
        page.reload()
        expect(row(page, "nodes", "a")).to_be_visible()
        assert page.evaluate("Object.values(sessionStorage)") == ["sésame 7"]
        assert page.evaluate("localStorage.length") == 0
        assert page.context.cookies() == []
        assert not [url for url in [*asked, page.url] if "same" in url]
        page.get_by_role("button", name="Forget the token").click()
        expect(page.locator("#token")).to_be_focused()
        assert page.evaluate("sessionStorage.length") == 0


def test_a_hidden_page_asks_for_nothing(plane, page) -> None:
    """A tab that nobody sees lets go of its connection, and is back at once when it is seen."""
    hide = """(hidden) => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/events")):
        page.evaluate(hide, arg=True)
    plane.post("/register", node="a", model="m")
    expect(row(page, "nodes", "a")).to_have_count(0)
    page.evaluate(hide, arg=False)
    expect(row(page, "nodes", "a")).to_be_visible()


def test_trouble_behind_is_told(browser, plane) -> None:
    """A registry that cannot be written is said on top of what is known."""
    view = {
        "totals": dict.fromkeys(("nodes", "models", "fetching", "from_origin", "from_peers", "served"), 1),
        "nodes": [], "models": [], "fetches": [], "starts": [], "failures": [], "registry": "r",
        "trouble": "the disk is full",
    }  # fmt: skip
    with visit(browser, plane.url) as page:
        expect(page.locator("#trouble")).to_be_hidden()
        said = f": a comment\n\ndata: {json.dumps(view)}\n\n"
        page.route("**/events?*", lambda route: route.fulfill(body=said, content_type="text/event-stream"))
        page.locator("#search").fill("x")
        expect(page.locator("#trouble")).to_have_text("The registry behind cannot be written: the disk is full")


def background(page: Page) -> str:
    """Return the colour behind all."""
    return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")


def test_dark_and_light(browser, plane) -> None:
    """As the system has it, until somebody chooses; a choice is remembered, until it is what the system has."""
    with visit(browser, plane.url, color_scheme="dark") as page:
        dark = background(page)
        page.emulate_media(color_scheme="light")
        light = background(page)
        assert dark != light
        page.get_by_role("button", name="Use the dark theme").click()
        assert background(page) == dark
        page.reload()
        assert background(page) == dark
        page.get_by_role("button", name="Use the light theme").click()
        assert background(page) == light
        page.emulate_media(color_scheme="dark")
        expect(page.get_by_role("button", name="Use the light theme")).to_be_visible()
        assert background(page) == dark


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_text_can_be_read(browser, plane, scheme) -> None:
    """Every colour of text has a contrast of at least 4.5 to every colour that is behind text (WCAG 2.2, AA)."""
    with visit(browser, plane.url, color_scheme=scheme) as page:
        colours = page.evaluate("""(all) => Object.fromEntries(all.map((name) => {
            document.body.style.color = `var(--${name})`;
            return [name, getComputedStyle(document.body).color.match(/[\\d.]+/g).map(Number)];
        }))""", ["ink", "dim", "warn", "back", "panel", "hover"])  # fmt: skip
    for text in ("ink", "dim", "warn"):
        for behind in ("back", "panel", "hover"):
            lighter, darker = sorted(map(luminance, (colours[text], colours[behind])), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (text, behind)


def luminance(rgb: list[float]) -> float:
    """Return the relative luminance of a colour (WCAG 2.2)."""
    parts = [part / 255 for part in rgb[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_it_fits_a_phone(browser, plane) -> None:
    """On 390 pixels nothing has to be scrolled sideways, whatever the names, and rows open."""
    plane.post("/register", node="n" * 253, model="m/" * 500, zone="z" * 128, size=3 * GB)
    fetch(plane, GB)
    with visit(browser, plane.url, viewport={"width": 390, "height": 844}) as page:
        row(page, "nodes", "n" * 253).locator("button").click()
        expect(page.locator("#nodes .detail .row")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_phone_cuts_no_fact(browser, plane) -> None:
    """On 390 pixels the facts of a row take the room that they need: none of them ends in dots."""
    plane.post("/heartbeat", node="gpu-1", load=3, served=15 * GB, inventory=[{"model": "m"}])
    fetch(plane, GB)
    cut = "(all) => all.filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.innerText)"
    with visit(browser, plane.url, viewport={"width": 390, "height": 844}) as page:
        expect(row(page, "nodes", "gpu-1")).to_contain_text("15.0 GB")
        assert page.locator("tr.row > td:visible").evaluate_all(cut) == []


WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def large(plane: Plane) -> None:
    """Say what a fleet of 60 nodes does: all of them fetch one model, and have shards of another."""

    def say(number: int) -> None:
        name = f"gpu-node-{number:03d}.rack-{'abc'[number % 3]}.example.internal"
        shards = [f"127.0.0.1:9180/org/model/resolve/main/model-{n:05d}-of-00030.safetensors" for n in range(30)]
        plane.post("/heartbeat", node=name, zone="z", ttl_s=600, inventory=[{"model": one} for one in shards])
        if number < 57:
            facts = {"state": "partial", "size": 100, "received": number, "from_origin": number, "ttl_s": 600}
            plane.post("/register", node=name, model="hub/large.gguf", **facts)
        else:
            plane.post("/register", node=name, model="hub/large.gguf", size=100)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(say, range(60)))


def test_fetches_of_one_model_are_one_row(plane, page) -> None:
    """How many nodes have it, how far all are together and the slowest is; its row opens to the single fetches."""
    large(plane)
    one = page.locator("#fetches > .scroll > table > tbody > .row")
    expect(cell(one, "Nodes")).to_have_text("57")
    expect(cell(one, "Complete")).to_have_text("3")
    expect(cell(one, "Slowest")).to_have_text("0\u00a0%")
    expect(cell(one, "Progress")).to_contain_text("28\u00a0%")
    expect(page.locator("#some-fetches")).to_have_text("57 fetches of 1 model")
    one.click()
    expect(page.locator("#fetches .facts")).to_contain_text("3 of 60 nodes complete")
    fetch = page.locator("#fetches .detail .row").filter(has_text="gpu-node-050")
    expect(fetch.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "50")
    plane.post("/register", node="gpu-node-050.rack-c.example.internal", model="hub/large.gguf", size=100)
    expect(fetch).to_have_count(0)
    expect(page.locator("#fetches .facts")).to_contain_text("4 of 60 nodes complete")


@pytest.mark.parametrize("size", [WIDE, PHONE])
def test_no_name_is_cut(browser, plane, size) -> None:
    """What tells two names apart is seen, wherever it stands; only a name that would fill a screen is cut."""
    large(plane)
    plane.post("/register", node="x" * 250, model="m/" * 500)
    with visit(browser, plane.url, viewport=size) as page:
        page.wait_for_selector("#nodes .row >> nth=60", state="attached")
        while page.locator(".more:visible").count():
            page.locator(".more:visible").first.click()
        hidden = """(all) => all.filter((one) => {
            const cell = one.closest("th, td").getBoundingClientRect(), it = one.getBoundingClientRect();
            return it.width && (it.right > cell.right + 1 || it.bottom > cell.bottom + 1);
        }).map((one) => one.textContent)"""
        assert page.locator("main bdi").evaluate_all(hidden) == []
        long = row(page, "nodes", "x" * 250)
        assert len(long.locator("bdi").inner_text()) < 200
        long.locator("button").click()
        assert long.locator("bdi").inner_text() == "x" * 250


def test_a_row_that_opens_moves_no_column(browser, plane) -> None:
    """Long names of models make rows of the detail higher, and the table of nodes no narrower."""
    large(plane)
    widths = "(all) => all.map((one) => one.getBoundingClientRect().width)"
    with visit(browser, plane.url, viewport=WIDE) as page:
        page.wait_for_selector("#nodes .row >> nth=59")
        heads = page.locator("#nodes > .scroll > table > thead th")
        before = heads.evaluate_all(widths)
        page.locator("#nodes .row button").first.click()
        expect(page.locator("#nodes .detail .row").first).to_be_visible()
        assert heads.evaluate_all(widths) == before
        plane.post("/register", node="other", model="m", rejected=["gpu-node-001.rack-b.example.internal"])
        expect(page.locator("#nodes > .scroll > table > thead .rejected")).to_be_visible()
        cells = page.locator("#nodes .detail > td")
        table = page.locator("#nodes > .scroll > table")
        assert cells.evaluate_all(widths) == table.evaluate_all(widths)


def test_a_large_fleet_is_short_on_a_phone(browser, plane) -> None:
    """Twenty rows of each table, and a button that shows the rest: what comes below is not far."""
    large(plane)
    with visit(browser, plane.url, viewport=PHONE) as page:
        page.wait_for_selector("#nodes .row >> nth=59", state="attached")
        rows = page.locator("#nodes > .scroll > table > tbody > .row")
        visible = "(all) => all.filter((one) => one.offsetHeight).length"
        assert rows.evaluate_all(visible) == 20
        assert page.evaluate("document.documentElement.scrollHeight") < 5000
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.locator("#nodes > .more").click()
        assert rows.evaluate_all(visible) == 60
        page.locator("#fetches .row button").first.click()
        expect(page.locator("#fetches .detail .row").first).to_be_visible()
        assert page.locator("#fetches .detail .row").evaluate_all(visible) == 20


def test_what_failed_is_shown(plane, page) -> None:
    """Which node, which model, why and when, also when nothing else is known of that node; until it has the model."""
    expect(page.locator("#failures")).to_be_hidden()
    gone = {"node": "a", "model": "m", "fetch": "f1", "reason": "integrity", "elapsed_s": 3}
    plane.ask("DELETE", "/register", gone)
    one = row(page, "failures", "m")
    expect(one).to_contain_text("wrong bytes")
    expect(one).to_contain_text("a")
    expect(cell(one, "Ago")).to_contain_text("s")
    plane.post("/register", node="a", model="other")
    expect(cell(row(page, "nodes", "a"), "Failed")).to_have_text("1")
    row(page, "nodes", "a").click()
    expect(page.locator("#nodes .facts")).to_contain_text("m (wrong bytes)")
    plane.post("/register", node="a", model="m", fetch="f2", outcome="fetched", elapsed_s=1)
    expect(page.locator("#failures")).to_be_hidden()


def test_leases_and_versions_are_shown(plane, page) -> None:
    """When a node's lease ends, and which Loom it runs; a column of it only where they differ."""
    for name, version in (("a", "0.1.0"), ("b", "0.1.0")):
        message = {"node": name, "ttl_s": 50, "inventory": []}
        plane.ask("POST", "/heartbeat", message, {"User-Agent": f"loom/{version}"})
    row(page, "nodes", "a").click()
    expect(page.locator("#nodes .facts")).to_contain_text("Loom 0.1.0 · lease ends in ")
    expect(cell(row(page, "nodes", "a"), "Loom")).to_be_hidden()
    plane.ask("POST", "/heartbeat", {"node": "b", "inventory": []}, {"User-Agent": "loom/0.2.0"})
    expect(cell(row(page, "nodes", "b"), "Loom")).to_have_text("0.2.0")
    expect(page.locator("#word-nodes")).to_have_text("nodes")
    expect(page.locator("#all-models")).to_have_text("0")


def test_two_nodes_of_one_name_are_told_apart(plane, page) -> None:
    """Both rows show which is which from the moment that there are two, and each opens what that one holds."""
    for identity, model in (("0a" * 16, "first"), ("0b" * 16, "second")):
        plane.post("/heartbeat", node="gpu", identity=identity, ttl_s=50, inventory=[{"model": model}])
        expect(page.locator("#nodes .row")).to_have_count(1 if model == "first" else 2)
    expect(page.locator("#nodes .row").nth(0)).to_contain_text("gpu (0a0a0a0a)")
    expect(page.locator("#nodes .row").nth(1)).to_contain_text("gpu (0b0b0b0b)")
    page.locator("#nodes .row button").nth(1).click()
    expect(page.locator("#nodes .detail")).to_contain_text("second")


def test_without_a_script_it_names_the_command(browser, plane) -> None:
    """A browser that runs no scripts is told what does the same."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(plane.url)
    expect(page.locator("noscript p")).to_contain_text("loom nodes")
    context.close()

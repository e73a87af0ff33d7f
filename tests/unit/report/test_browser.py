"""The HTML report in a headless Chromium: it sorts, it filters, it loads nothing, and no name runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install 'trtbuild[dev]'")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--disable-dev-shm-usage",
)
Document = dict[str, Any]

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs chromium and chromedriver: apt-get install chromium chromium-driver",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def view(
    browser: webdriver.Chrome, page: Callable[[Document], Path]
) -> Callable[[Document], webdriver.Chrome]:
    """Show the report of a document; what was logged before is forgotten."""

    def show(document: Document) -> webdriver.Chrome:
        browser.get("about:blank")
        browser.get_log("performance")
        browser.get_log("browser")
        browser.get(page(document).as_uri())
        return browser

    return show


def column(browser: webdriver.Chrome, number: int) -> list[str]:
    """The cells of a column of the layers that are shown, from the top."""
    script = """return Array.from(document.querySelectorAll("#layers tbody tr"))
        .filter((row) => row.offsetParent !== null).map((row) => row.cells[arguments[0]].textContent)"""
    cells: list[str] = browser.execute_script(script, number)
    return cells


def header(browser: webdriver.Chrome, name: str) -> Any:
    return browser.find_element(By.XPATH, f"//table[@id='layers']//th/button[normalize-space()='{name}']")


def sort_by(browser: webdriver.Chrome, name: str) -> list[str]:
    header(browser, name).click()
    return column(browser, 0)


def requests(browser: webdriver.Chrome) -> list[str]:
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def test_it_loads_nothing(view: Callable[..., Any], large: Callable[[int], Document]) -> None:
    browser = view(large(120))
    sort_by(browser, "cosine")
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert requests(browser) == [browser.current_url]
    assert browser.get_log("browser") == []


def test_its_policy_forbids_requests_and_scripts(view: Callable[..., Any], document: Document) -> None:
    browser = view(document)
    fetch = "fetch('data:,x').then(() => arguments[0]('loaded'), () => arguments[0]('blocked'))"
    assert browser.execute_async_script(fetch) == "blocked"
    inject = """const script = document.createElement("script"); script.textContent = "window.ran = true";
        document.body.append(script); return window.ran === true"""
    assert browser.execute_script(inject) is False


def test_it_sorts(view: Callable[..., Any], large: Callable[[int], Document]) -> None:
    document = large(60)
    browser = view(document)
    in_order = column(browser, 0)
    assert in_order == [str(number) for number in range(1, 61)]
    by_sqnr = {str(number): row["difference"]["sqnr_db"] for number, row in enumerate(document["layers"], 1)}
    rising = sort_by(browser, "SQNR, dB")
    assert (rising[0], rising[-1]) == ("3", "2"), "no signal first, equal last"
    assert [by_sqnr[n] for n in rising[1:-1]] == sorted(by_sqnr[n] for n in rising[1:-1])
    assert header(browser, "SQNR, dB").find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"
    assert sort_by(browser, "SQNR, dB") == sorted(
        rising, key=lambda n: -float("inf") if n == "2" else float("inf") if n == "3" else -by_sqnr[n]
    )
    sort_by(browser, "tensor")
    names = column(browser, 1)
    assert [name.split(".")[1].split("/")[0] for name in names] == [str(n) for n in range(60)], "2 before 10"
    assert sort_by(browser, "#") == in_order


def test_missing_figures_come_last(view: Callable[..., Any], large: Callable[[int], Document]) -> None:
    document = large(12)
    document["layers"][5] |= {"difference": None, "problem": "gone"}
    browser = view(document)
    for _ in range(2):
        assert sort_by(browser, "cosine")[-1] == "6"


def test_it_filters(view: Callable[..., Any], large: Callable[[int], Document]) -> None:
    document = large(60)
    document["layers"][7] |= {"difference": None, "problem": "gone"}
    browser = view(document)
    layers = dict(enumerate(document["layers"], 1))
    text = browser.find_element(By.ID, "filter-text")
    count = browser.find_element(By.ID, "count")
    assert count.text == "60 of 60 layers"
    text.send_keys("LAYERS.1/ ")
    assert column(browser, 0) == ["2"]
    assert count.text == "1 of 60 layers"
    browser.find_element(By.ID, "filter-reset").click()
    assert len(column(browser, 0)) == 60

    def choose(control: str, value: str) -> list[int]:
        Select(browser.find_element(By.ID, control)).select_by_visible_text(value)
        return [int(number) for number in column(browser, 0)]

    halves = [number for number, row in layers.items() if row["precision"] == "fp16"]
    assert choose("filter-precision", "fp16") == halves
    assert choose("filter-which", "pinned") == [n for n in halves if layers[n]["pinned"]]
    assert choose("filter-precision", "all") == [n for n, row in layers.items() if row["pinned"]]
    assert choose("filter-which", "failing") == [8]
    below = choose("filter-which", "below 20 dB")
    assert below == [
        n
        for n, row in layers.items()
        if n == 3 or (row["difference"] and (row["difference"]["sqnr_db"] or 99) < 20)
    ]
    sort_by(browser, "SQNR, dB")
    assert sorted(map(int, column(browser, 0))) == below, "sorting keeps the filter"


def test_the_keyboard_is_enough(view: Callable[..., Any], large: Callable[[int], Document]) -> None:
    browser = view(large(20))
    for key in (Keys.ENTER, Keys.SPACE):
        browser.execute_script("arguments[0].focus()", header(browser, "#"))
        browser.switch_to.active_element.send_keys(key)
    assert column(browser, 0) == [str(number) for number in range(20, 0, -1)]


def test_a_point_of_the_chart_leads_to_its_row(
    view: Callable[..., Any], large: Callable[[int], Document]
) -> None:
    browser = view(large(40))
    browser.find_element(By.ID, "filter-text").send_keys("nothing has this")
    assert column(browser, 0) == []
    browser.execute_script("location.hash = '#layer-30'")
    assert len(column(browser, 0)) == 40
    assert browser.execute_script("return document.querySelector('tr:target').id") == "layer-30"


def test_names_are_shown_and_do_nothing(view: Callable[..., Any], document: Document) -> None:
    browser = view(document)
    assert [name.strip() for name in column(browser, 1)] == [
        row["tensor"].strip() for row in document["layers"]
    ]
    assert browser.execute_script("return document.scripts.length") == 1
    assert browser.execute_script("return document.images.length") == 0
    assert browser.get_log("browser") == []


def test_it_is_readable_in_light_and_dark(view: Callable[..., Any], document: Document) -> None:
    browser = view(document)
    colours = {}
    for mode in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": mode}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        colours[mode] = [
            sum(map(int, colour[4:-1].split(",")))
            for colour in browser.execute_script(
                "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
            )
        ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert colours["light"][0] - colours["light"][1] > 500
    assert colours["dark"][1] - colours["dark"][0] > 500

"""The HTML report of `tune` in a headless Chromium: its nodes sort and filter, and nothing is loaded."""

import pytest

from tests.unit.report.test_browser import browser, column, pytestmark, requests, sort_by
from tests.unit.report.tuning_documents import measure, tuned
from trtbuild.report.tuning import html

__all__ = ["browser", "pytestmark"]


@pytest.fixture
def view(browser, tmp_path):
    def show(document):
        path = tmp_path / "tune.html"
        path.write_text(html(document), encoding="utf-8")
        browser.get("about:blank")
        browser.get_log("performance")
        browser.get_log("browser")
        browser.get(path.as_uri())
        return browser

    return show


def choose(browser, control, value):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.select import Select

    Select(browser.find_element(By.ID, control)).select_by_visible_text(value)
    return column(browser, 0)


def test_it_loads_nothing_and_logs_nothing(view):
    browser = view(tuned())
    sort_by(browser, "alone")
    assert requests(browser) == [browser.current_url]
    assert browser.get_log("browser") == []


def test_nodes_sort_by_every_figure(view):
    document = tuned()
    nodes = document["sensitivity"]["nodes"]
    nodes[2]["alone"] = measure(None)
    nodes[3]["weights"] = None
    browser = view(document)
    ranks = [str(node["rank"]) for node in nodes]
    assert column(browser, 0) == ranks
    rising = [*reversed([rank for rank in ranks if rank != "3"]), "3"]
    assert sort_by(browser, "alone") == rising, "infinite is the largest"
    assert sort_by(browser, "alone: SQNR, dB") == rising[::-1]
    for _ in range(2):
        assert sort_by(browser, "weights only")[-1] == "4", "what was not measured comes last"


def test_nodes_filter(view):
    document = tuned()
    nodes = document["sensitivity"]["nodes"]
    nodes[6]["pinned"] = True
    nodes[0]["ranks_of_halves"] = [1, 14]
    browser = view(document)
    assert choose(browser, "filter-precision", "pinned") == ["7"]
    assert len(choose(browser, "filter-precision", "not pinned")) == 50
    assert choose(browser, "filter-which", "uncertain rank") == ["1"]

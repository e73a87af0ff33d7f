"""The HTML report as text: self-contained, well-formed, small, and every name in it harmless."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.report.conftest import HOSTILE, QUOTES
from trtbuild.report.html import html

VOID = {"meta", "input", "br", "link", "img"}
SHAPES = {"path", "rect", "circle", "use", "polyline"}


class Page(HTMLParser):
    """Elements, attributes and text; asserts that every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text, self.content = [], [], "", {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in SHAPES
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            self.content[self.open[-1]] = self.content.get(self.open[-1], "") + data
        else:
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def rows(page, table):
    """What each row of a table shows, by its id."""
    return [found for found in page.all("tr") if (found.get("id") or "").startswith(f"{table}-")]


def assert_alone(page):
    """It asks for nothing from outside, and its policy allows its own script and style only."""
    for tag, attributes in page.elements:
        assert tag not in {"link", "img", "iframe", "object", "base", "form", "image"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in {"src", "srcset", "style", "action", "xlink:href"}
            assert name != "href" or value.startswith("#")
    assert not re.search(r"url\(|@import", page.content["style"])
    (policy,) = (m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    for tag in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.content[tag].encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
        assert len(page.all(tag)) == 1
    assert set(rules) == {"default-src", "script-src", "style-src", "base-uri", "form-action"}


def test_it_stands_alone(document, large):
    for given_document in (document, large(40)):
        assert_alone(Page(html(given_document)))


def test_hostile_names_are_text(document):
    text = html(document)
    page = Page(text)
    for name in (*HOSTILE.values(), f"second {QUOTES}", "narrow <b>first</b> block"):
        assert name in page.text
    assert "{{ 7 * 7 }}" in text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["<!--", "--><script>", "'"]))
def test_any_text_anywhere_leaves_the_page_as_it_is(document, text):
    usual = Page(html(document))
    layers = [{**row, "tensor": text, "node": text, "reason": text} for row in document["layers"]]
    hostile = Page(html({**document, "layers": layers, "engine": text, "build": text}))
    assert [tag for tag, _ in usual.elements] == [tag for tag, _ in hostile.elements]


def test_500_layers_are_below_2_mb(large):
    text = html(large(500))
    assert 300_000 < len(text.encode()) < 2_000_000


def test_the_verdict_comes_first(document):
    page = Page(html(document))
    places = [page.text.index(word) for word in ("✓ Passed", "Gate", "SQNR along", "Layers\n", "Environment")]
    assert places == sorted(places)
    assert page.all("header") == [{"class": "passed"}]


def test_a_failed_check_is_named_beside_the_verdict(document):
    document["checks"][1] |= {"passed": False, "seen": "5 of 6; y: gone"}
    page = Page(html({**document, "passed": False}))
    assert page.all("header") == [{"class": "failed"}]
    head = page.text[: page.text.index("Gate\n")]
    assert "✗ Failed" in head
    assert "every tensor compared: 5 of 6; y: gone, wanted all" in head


def test_everything_is_there_without_javascript(document, large):
    grown = large(60)
    page = Page(html(grown))
    found = rows(page, "layer")
    assert len(found) == 60
    assert all("hidden" not in row for row in found)
    assert ("div", {"id": "controls", "hidden": None}) in page.elements
    for row in grown["layers"]:
        assert row["tensor"] in page.text
    for words in (
        [check["name"] for check in document["checks"]],
        [pin["reason"] for pin in document["pins"]],
        [document[key]["sha256"] for key in ("model", "artifact", "samples")],
        [document["environment"]["packages"]["onnxruntime"], document["created"]],
    ):
        assert all(word in page.text for word in words)


def test_the_chart_has_each_compared_layer_and_links_it(large):
    grown = large(30)
    grown["layers"][4] |= {"difference": None, "problem": "gone"}
    page = Page(html(grown))
    links = [a for a in page.all("a") if a["href"].startswith("#layer-")]
    assert [link["href"] for link in links] == [f"#layer-{n}" for n in range(1, 31) if n != 5]
    assert links[0]["class"] == "int8"
    assert sum(c.get("class") == "ring" for c in page.all("circle")) == 3 + 1, "pins, and the legend"
    assert any(p.get("class") == "noise" for p in page.all("polyline"))
    assert "✗ not compared: gone" in page.text


def test_own_and_inherited_errors_stand_beside_the_difference(document):
    explained = "Own: what the layer adds"
    for row in document["layers"]:
        row |= {"own": None, "inherited": None, "noise": None}
    assert explained not in Page(html(document)).text
    figures = {name: {"sqnr_db": db, "max_abs": 1.0} for name, db in (("own", 31.25), ("inherited", 12.5))}
    document["layers"][1] |= figures
    page = Page(html(document))
    assert explained in page.text
    assert "own SQNR, dB" in page.text
    assert "noise SQNR, dB" not in page.text
    assert [cell for cell in ("31.2", "12.5") if cell in page.text] == ["31.2", "12.5"]


def test_histograms_are_drawn_where_there_are_any(document, large):
    for row in document["worst"]:
        row["histogram"] = None
    assert not any(path.get("class") == "golden" for path in Page(html(document)).all("path"))
    drawn = Page(html(large(30))).all("path")
    assert sum(path.get("class") == "candidate" for path in drawn) == 10 + 1


@pytest.mark.parametrize("key", ["max_rel", "kl"])
def test_figures_that_no_row_has_have_no_column(document, key):
    name = {"max_rel": "max rel", "kl": "KL, nats"}[key]
    assert name in Page(html(document)).text
    for row in [*document["layers"], *document["outputs"]]:
        row["difference"].pop(key)
    assert name not in Page(html(document)).text


def test_no_layers_no_table(document):
    page = Page(html({**document, "layers": [], "first_divergence": None}))
    assert rows(page, "layer") == []
    assert "No layers were compared" in page.text


def test_same_document_same_bytes(document):
    assert html(document) == html(document)

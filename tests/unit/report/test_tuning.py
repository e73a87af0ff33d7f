"""The HTML report of `tune`: its document's schema, what it shows, and that every name in it is harmless."""

import copy
import itertools
import json
import re
from importlib import resources

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.report.conftest import QUOTES, SCRIPT
from tests.unit.report.test_html import Page, assert_alone
from tests.unit.report.tuning_documents import GOLDEN, MAX_DROP, NODES, measure, single, tuned, without_metric
from trtbuild.report import html as check
from trtbuild.report import pareto, tuning

DOCUMENTS = (tuned, without_metric, single)


@pytest.fixture(scope="module")
def schema():
    return json.loads(resources.files("trtbuild.report").joinpath("tuning.schema.json").read_text("utf-8"))


def cells(page_text, table):
    """The rows of a table as lists of what their cells show."""
    body = re.search(rf'<table id="{table}">.*?<tbody>(.*?)</tbody>', page_text, re.S).group(1)
    return [
        [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<t[dh][ >].*?</t[dh]>", row, re.S)]
        for row in re.findall(r"<tr.*?</tr>", body, re.S)
    ]


@pytest.mark.parametrize("build", DOCUMENTS)
def test_a_document_is_of_its_schema(build, schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    document = json.loads(json.dumps({"schema_version": 1, **build()}))
    jsonschema.Draft202012Validator(schema).validate(document)
    assert set(document) == set(schema["properties"]), "every key is documented"


@pytest.mark.parametrize(
    "break_it",
    [
        lambda document: document.pop("best"),
        lambda document: document["trials"].clear(),
        lambda document: document["trials"][0].pop("why"),
        lambda document: document["sensitivity"]["nodes"][0].pop("reverted"),
        lambda document: document["pins"][0].update(error="large"),
        lambda document: document.update(outcome="ok"),
    ],
)
def test_the_schema_catches_what_is_wrong(break_it, schema):
    document = {"schema_version": 1, **tuned()}
    break_it(document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(document)


@pytest.mark.parametrize("build", DOCUMENTS)
def test_it_stands_alone(build):
    assert_alone(Page(tuning.html(build())))


@settings(max_examples=30, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from([SCRIPT, QUOTES, "<!--"]))
def test_any_text_anywhere_leaves_the_page_as_it_is(text):
    usual, document = Page(tuning.html(tuned())), tuned()
    document |= {"engine": text, "target": text, "written": text + "x", "metric": text + "x"}
    document["model"] |= {"path": text}
    for row in document["trials"]:
        row |= {"label": text, "pins": [text], "failing": [text] * len(row["failing"])}
        row["why"] = row["why"] if row["front"] else text
    for row in (*document["pins"], *document["sensitivity"]["nodes"]):
        row |= {"node": text, "op_type": text, "reason": text}
    for row in document["settings"]:
        row |= {"label": text, "method": text}
    assert [tag for tag, _ in Page(tuning.html(document)).elements] == [tag for tag, _ in usual.elements]


def test_each_kind_of_report_has_its_own_mark():
    text = tuning.html(tuned())
    assert tuning.GENERATOR in text
    assert check.GENERATOR not in text
    assert tuning.GENERATOR not in check.GENERATOR


def test_the_outcome_comes_first():
    page = Page(tuning.html(tuned()))
    places = [
        page.text.index(word)
        for word in (
            "✓ Passed with margin",
            "Pins against",
            "\nPins\n",
            "\nTrials\n",
            "Sensitivity",
            "SHA-256",
        )
    ]
    assert places == sorted(places)
    assert page.all("header") == [{"class": "passed"}]
    assert "Written: engines/ocr-rec/tuned.toml." in page.text
    assert "Interrupted" not in page.text


def test_a_failure_says_why():
    document = single(passed=False, margin=False, failing=["output y: cosine 0.91, wanted 0.99"])
    page = Page(tuning.html({**document, "interrupted": True}))
    assert page.all("header") == [{"class": "failed"}]
    head = page.text[: page.text.index("Pins against")]
    for words in ("✗ Failed", "output y: cosine 0.91, wanted 0.99", "Interrupted:", "Nothing was written."):
        assert words in head


def test_every_trial_is_in_the_table_and_the_plot():
    document = tuned()
    text = tuning.html(document)
    rows = cells(text, "trials")
    assert [row[0] for row in rows] == [str(n) for n in range(1, 16)]
    assert rows[0][1:8] == [
        *("minmax", "the recipe without more pins", "0", "0.7000", "0.2850", "0.2725 to 0.2925", "infinite")
    ]
    assert rows[0][8] == "✗ failedmetric metric.py:exact_match: seen 0.7000, wanted at least 0.975"
    assert rows[0][9:] == ["", ""]
    assert rows[-1][8:10] == ["✓ passed with margin", "front"]
    assert rows[-1][10] == "p2o.Conv.5, p2o.Conv.1, p2o.Conv.2, p2o.Conv.27, p2o.Conv.9, p2o.Conv.12"
    page = Page(text)
    assert [row["class"] for row in page.all("tr") if "class" in row] == ["best passed"]
    links = {link["href"]: link["class"] for link in page.all("a")}
    assert set(links) == {f"#trial-{n}" for n in range(1, 16)}
    assert (links["#trial-1"], links["#trial-5"]) == ("point failed aside", "point failed")
    assert (links["#trial-13"], links["#trial-15"]) == ("point passed aside", "point passed best")
    assert (
        "15. auto, equalized (without p2o.Conv.7): 0.9925, lost -0.0075 (95 %: -0.0200 to 0.0000), "
        "6 of 51 nodes pinned (11.8%), passed with margin"
    ) in page.text
    assert "golden 0.985" in page.text
    assert "gate 0.975" in page.text


def test_without_a_metric_nothing_is_lost():
    text = tuning.html(without_metric())
    assert cells(text, "trials")[-1][1:6] == [
        "auto, equalized best",
        "without p2o.Conv.7",
        "6",
        "41.2",
        "0.000235",
    ]
    page = Page(text)
    assert "Pins against least SQNR of the outputs, dB" in page.text
    for word in ("lost", "golden", "95 %"):
        assert word not in page.text
    assert not any(path.get("class") in ("limit", "reference", "bar") for path in page.all("path"))


def test_pins_and_what_each_buys():
    document = tuned()
    document["pins"][0] |= {"error_without": None, "figure_without": None}
    row, *others = cells(tuning.html(document), "pins")
    reason = "tune: without it exact_match is 0.9550"
    assert row == ["p2o.Conv.5", "Conv", "-", "0.000235", "-", "0.9925", reason]
    assert len(others) == 5
    document["pins"][1]["latency_ms"] = 0.0204
    timed = cells(tuning.html(document), "pins")
    assert [cost for *_, cost, _ in timed] == ["-", "0.020", *["-"] * 4]


def test_what_is_not_there_is_not_shown():
    page = Page(tuning.html(single()))
    assert "No pins added." in page.text
    assert not {table.get("id") for table in page.all("table")} & {"pins", "layers", "settings"}
    assert "No trial has a figure to draw." in Page(tuning.html(single(figure=None, drop=None))).text


def test_settings():
    rows = cells(tuning.html(tuned()), "settings")
    assert rows[1] == ["auto, equalized, biases corrected", "auto", "0.5", "yes", "0.0016"]
    assert rows[-1] == ["minmax", "minmax", "–", "no", "infinite"]


def test_sensitivity():
    document = tuned()
    nodes = document["sensitivity"]["nodes"]
    nodes.reverse()
    nodes[-1] |= {"ranks_of_halves": [1, 14], "pinned": True, "reverted": None}
    nodes[-2]["alone"] = measure(None)
    rows = cells(tuning.html(document), "layers")
    assert [row[0] for row in rows] == [str(rank) for rank in range(1, NODES + 1)]
    assert rows[0] == [
        *("1", "p2o.Conv.5", "Conv", "1 and 14: uncertain", "0.04", "0.0388", "0.0008", "–"),
        *("14.0", "0.48", "0.97", "pin"),
    ]
    assert rows[1][3:5] == ["2 and 1", "infinite"]
    assert rows[1][8:] == ["no signal", "–", "–", ""]
    page = Page(tuning.html(document))
    assert "the recipe as it is makes 0.12" in page.text
    assert "agree by 0.93" in page.text
    bare = tuned()
    bare["sensitivity"]["agreement"] = None
    for node in bare["sensitivity"]["nodes"]:
        node["alone"] |= {"kl": None, "score": None}
    page = Page(tuning.html(bare))
    for word in ("Spearman", "KL, nats", "score"):
        assert word not in page.text


def test_same_document_same_bytes():
    before = tuned()
    document = copy.deepcopy(before)
    assert tuning.html(document) == tuning.html(document)
    assert document == before, "and it is left as it was"


def places(plot):
    return {point.trial["number"]: point for point in plot.points}


def test_places_are_to_scale():
    plot = pareto.of(tuned())
    found = places(plot)
    ticks = {label: y for y, label in plot.figures}
    unit = ticks["0.9"] - ticks["1"]
    assert found[1].y - found[5].y == pytest.approx(unit * (0.8375 - 0.7) / 0.1, abs=0.2)
    assert [found[n].x for n in (1, 6, 7)] == [x for x, label in plot.pins if label in "012"]
    assert found[8].x - found[7].x == pytest.approx(found[7].x - found[6].x, abs=0.2)
    lines = {name: y for name, y, _ in plot.limits}
    assert lines["golden"] == found[13].y
    assert lines["gate"] - lines["golden"] == pytest.approx(unit * MAX_DROP / 0.1, abs=0.2)
    labels = [y for _, _, y in plot.limits]
    assert labels[1] - labels[0] >= pareto.LINE


def test_bars_are_of_those_that_count_and_to_scale():
    plot = pareto.of(tuned())
    found = places(plot)
    assert {number for number, point in found.items() if point.bar} == {5, 6, 7, 8, 10, 15}
    high, low = found[6].bar
    ticks = {label: y for y, label in plot.figures}
    unit = (ticks["0.9"] - ticks["1"]) / 0.1
    assert low - high == pytest.approx(0.02 * unit, abs=0.2)
    assert found[6].y - high == pytest.approx(unit * (GOLDEN - 0.055 - 0.9175), abs=0.2)


def test_the_front_is_a_step_line():
    plot = pareto.of(tuned())
    points = [tuple(map(float, pair.split(","))) for pair in plot.front.split()]
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in itertools.pairwise(points))
    found = places(plot)
    assert [points[0], points[-2]] == [(found[5].x, found[5].y), (found[15].x, found[15].y)]
    assert points[-1] == (pareto.RIGHT, found[15].y)
    assert len(points) == 2 * 6


def test_the_best_is_drawn_last():
    assert pareto.of(tuned()).points[-1].trial["number"] == 15


def test_far_below_is_a_lane_of_its_own():
    document = tuned()
    document["trials"][0]["figure"] = 0.0
    found = places(pareto.of(document))
    assert found[1].y == pareto.BELOW_Y > max(point.y for number, point in found.items() if number != 1)
    assert "far below" in Page(tuning.html(document)).text
    assert "far below" not in Page(tuning.html(tuned())).text


def test_the_budget_is_drawn_where_it_is_in_sight():
    document = tuned()
    assert pareto.of(document).most is None, "10 pins are beyond the 8 that were tried"
    assert pareto.of({**document, "most_pins": 5}).most == places(pareto.of(document))[10].x
    assert pareto.of({**document, "most_pins": None}).most is None


def test_a_trial_without_a_figure_is_in_the_table_only():
    document = tuned()
    document["trials"][4] |= {"figure": None, "drop": None, "interval": None}
    assert 5 not in places(pareto.of(document))
    assert cells(tuning.html(document), "trials")[4][4:7] == ["-", "-", "-"]

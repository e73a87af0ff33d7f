"""Which trials of a search count, on which scale they are drawn, and in which words they are told."""

import pytest

from tests.unit.report.tuning_documents import single, trial, tuned, without_metric
from trtbuild.report import trials
from trtbuild.report.axis import Axis
from trtbuild.tune.document import best_of


def figures(axis):
    return round(axis.low, 9), round(axis.high, 9)


def test_the_front_goes_from_few_pins_to_many():
    document = tuned()
    document["trials"].reverse()
    assert [(row["pinned"], row["figure"]) for row in trials.front_of(document)] == [
        *((0, 0.8375), (1, 0.9175), (2, 0.93), (3, 0.945), (5, 0.9575), (6, 0.9925))
    ]


def test_telling_are_the_front_the_best_and_the_recipe():
    document = tuned()
    best = best_of(document)
    best["front"] = False
    assert [row["number"] for row in trials.telling(document)] == [1, 5, 6, 7, 8, 10, 15]
    assert not document["trials"][0]["front"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [((True, True), "passed with margin"), ((True, False), "passed"), ((False, False), "failed")],
)
def test_what_the_gate_said(given, wanted):
    assert trials.gate_of(dict(zip(("passed", "margin"), given, strict=True))) == wanted


def test_figures_as_text():
    assert trials.fixed(-0.00001) == "0.0000"
    assert trials.fixed(0.12345) == "0.1235"
    assert trials.fixed(-0.0126, 2) == "-0.01"
    assert trials.fixed(None) == "-"
    assert trials.interval_text((-0.015, 0.0)) == "-0.0150 to 0.0000"
    assert trials.interval_text(None) == "-"
    assert [trials.error_text(value) for value in (None, 0.0, 0.00123456)] == ["infinite", "0", "0.00123"]
    assert [trials.sqnr_text(value) for value in (None, 0.0, 0.001)] == ["no signal", "equal", "30.0"]
    assert trials.figure_text(tuned(), 0.5) == "0.5000"
    assert trials.figure_text(without_metric(), 31.23) == "31.2"


def test_the_headline():
    assert trials.headline(tuned()) == (
        "metric.py:exact_match 0.9925 against the golden's 0.9850 (lost -0.0075, 95 %: -0.0200 to 0.0000; "
        "at most 0.01), 6 of 51 nodes pinned (11.8%), auto, equalized"
    )
    assert trials.headline(without_metric()) == (
        "least SQNR of the outputs 41.2 dB, 6 of 51 nodes pinned (11.8%), auto, equalized"
    )
    assert "(lost -0.0075; at most 0.01)" in trials.headline(single(interval=None, margin=False))


def test_pins_of_the_recipe_and_the_budget_are_told():
    document = {**single(pinned=5, share=5 / 51), "own_pins": 5}
    assert trials.pinned_text(document, document["trials"][0]) == (
        "5 of 51 nodes pinned (9.8%, 5 of them by the recipe)"
    )
    assert trials.budget_text(document) == "budget: 10 pinned nodes (20.0% of 51)"
    assert trials.budget_text({**document, "budget": None}) == "budget: 10 pinned nodes"
    assert trials.budget_text({**document, "budget": None, "most_pins": None}) is None
    assert trials.budget_text({**document, "budget": 0.0, "most_pins": 0}).startswith("budget: 0 pinned")


def test_one_that_ruins_everything_does_not_squeeze_the_rest():
    document = tuned()
    document["trials"][0]["figure"] = 0.0
    assert figures(trials.figures_axis(document, 10, intervals=False)) == (0.75, 1.0)
    document["trials"][0]["figure"] = 0.7
    assert figures(trials.figures_axis(document, 10, intervals=False)) == (0.7, 1.0)


def test_three_quarters_are_drawn_to_scale_however_far_below():
    document = tuned()
    for row in document["trials"][:10]:
        row |= {"figure": 0.1, "front": False}
    assert trials.figures_axis(document, 10, intervals=False).low <= 0.1


def test_intervals_are_on_the_scale_where_they_are_drawn():
    document = single()
    without, with_them = (trials.figures_axis(document, 10, intervals=yes) for yes in (False, True))
    assert without.high < 1.0
    assert with_them.high >= 1.005
    document["trials"][0]["interval"] = None
    assert trials.figures_axis(document, 10, intervals=True) == without


def test_no_figure_no_scale():
    assert trials.figures_axis(single(figure=None), 10, intervals=True) is None
    document = without_metric()
    document["trials"][-1]["figure"] = None
    for row in document["trials"]:
        row["front"] = False
    assert trials.figures_axis(document, 10, intervals=True).high >= 36, "none that counts, but others"


@pytest.mark.parametrize(
    ("pinned", "wanted"),
    [
        ((0,), (0, 1, 1)),
        ((5,), (5, 6, 1)),
        ((0, 8), (0, 8, 1)),
        ((3, 25), (0, 25, 5)),
        ((100, 108), (100, 108, 1)),
        ((0, 301), (0, 350, 50)),
    ],
)
def test_pins_are_whole_numbers(pinned, wanted):
    document = {"trials": [trial(1, [], 0.9, pinned=count) for count in pinned]}
    assert trials.pins_axis(document, 10) == Axis(*wanted)


def test_a_rank_is_certain_where_the_halves_agree_within_a_tenth_of_the_nodes():
    halves = {"agreement": 0.5}
    assert trials.is_certain(halves, (1, 6), 51)
    assert not trials.is_certain(halves, (1, 14), 51)
    assert trials.is_certain(halves, (2, 1), 3)
    assert not trials.is_certain(halves, (3, 1), 3)
    assert not trials.is_certain({"agreement": None}, (1, 1), 51)

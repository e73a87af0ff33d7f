"""What `tune` and `tune --explain` print: read at any width, complete, and no name is taken for markup."""

import re

import pytest

from tests.unit.report.tuning_documents import explained, measure, single, tuned, without_metric
from trtbuild.render import pareto
from trtbuild.render import tune as render


@pytest.fixture
def shown(capsys):
    def show(document, show_it=render.tune):
        show_it(document)
        return capsys.readouterr().out

    return show


@pytest.fixture
def narrow(monkeypatch):
    """A terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")


def table(text, title):
    """The rows of a table, its heading first."""
    lines = iter(text.splitlines())
    next(line for line in lines if line.startswith(title))
    rows = []
    for line in lines:
        if line[:1] in "│┃":
            rows.append([cell.strip() for cell in re.split("[│┃]", line)[1:-1]])
        elif line.startswith("└"):
            return rows
    raise AssertionError("the table has no end")


def drawing(text):
    """The plot: what stands right of its axis, and the labels left of it, from the top."""
    found = re.findall(r"(?m)^ {0,8}(\S*) │(.*)$", text)
    return [line for _, line in found], [label for label, _ in found]


def test_the_outcome_comes_first(shown):
    first, second, *_ = shown(tuned()).splitlines()
    assert first == (
        "passed with margin: ocr-rec, metric.py:exact_match 0.9925 against the golden's 0.9850 "
        "(lost -0.0075, 95 %: -0.0200 to 0.0000; at most 0.01), 6 of 51 nodes pinned (11.8%), auto, equalized"
    )
    assert second == "budget: 10 pinned nodes (20.0% of 51)"


def test_the_front_the_best_and_the_recipe_are_listed_and_the_rest_is_counted(shown):
    text = shown(tuned())
    heading, *rows = table(text, "pins against metric.py:exact_match")
    assert heading[1:] == [*("setting", "trial", "pins", "figure", "lost", "95 % interval", "error", "gate")]
    assert [(row[0], row[2]) for row in rows] == [
        *(("x", "1"), ("X", "5"), ("X", "6"), ("X", "7"), ("X", "8"), ("X", "10"), ("@", "15"))
    ]
    assert rows[-1] == [
        *("@", "auto, equalized (without p2o.Conv.7)", "15", "6", "0.9925", "-0.0075"),
        *("-0.0200 to 0.0000", "0.000235", "passed with margin"),
    ]
    assert rows[0][7:] == ["infinite", "failed"]
    assert "\nand 8 more trials that are not on the front" in text


def test_hundreds_of_trials_are_few_lines(shown):
    document = tuned()
    others = [{**document["trials"][0], "number": 100 + n, "why": "best setting"} for n in range(400)]
    document["trials"] += others
    assert "and 408 more trials" in shown(document)
    assert len(shown(document).splitlines()) == len(shown(tuned()).splitlines())


def test_the_plot_is_to_scale(shown):
    text = shown(tuned())
    lines, labels = drawing(text)
    assert [label for label in labels if label] == ["1", "0.9", "0.8", "0.7"]
    assert [index for index, label in enumerate(labels) if label] == [0, 7, 13, 20]
    (golden,) = (index for index, line in enumerate(lines) if line.endswith(" golden"))
    (gate,) = (index for index, line in enumerate(lines) if line.endswith(" gate"))
    assert (golden, gate) == (1, 2)
    (best,) = ((index, line.index("@")) for index, line in enumerate(lines) if "@" in line)
    numbers = next(line for line in text.splitlines() if line.split() == list("012345678")).removeprefix(
        " " * 10
    )
    assert best == (0, numbers.index("6"))
    drawn = ((row, line.index("X")) for row, line in enumerate(lines) if "X" in line)
    assert sorted(drawn, reverse=True)[:3] == [
        (row, numbers.index(n)) for row, n in ((11, "0"), (6, "1"), (5, "2"))
    ]
    assert lines[20][numbers.index("0")] == "x"
    assert (
        "@ best (trial 15, passed with margin)  O passed  X failed  small letters: not on the front" in text
    )


def test_golden_and_gate_on_one_line_are_both_named(shown):
    document = {**tuned(), "max_drop": 0.001}
    lines, _ = drawing(shown(document))
    assert sum(line.endswith("golden, gate") for line in lines) == 1


def test_the_best_hides_behind_nothing(shown):
    document = tuned()
    document["trials"].append({**document["trials"][-1], "number": 16})
    assert sum("@" in line for line in drawing(shown(document))[0]) == 1


def test_far_below_is_a_line_of_its_own(shown):
    document = tuned()
    assert "below" not in drawing(shown(document))[1]
    document["trials"][0]["figure"] = 0.0
    lines, labels = drawing(shown(document))
    assert labels[-1] == "below"
    assert lines[-1].strip() == "x"


@pytest.mark.parametrize("count", [0, 1, 9, 57, 512, 3000])
def test_any_number_of_pins_fits(count):
    document = tuned()
    document["trials"][-1] |= {"pinned": count, "front": True}
    for width in (60, 80, 140):
        lines = pareto.plot(document, width)
        assert max(map(len, lines)) <= width
        assert len(lines) <= pareto.HEIGHT + 5
        assert sum("@" in line for line in lines) == 1


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("build", [tuned, without_metric, single])
def test_80_columns_are_enough(shown, build):
    document = build()
    for trial in document["trials"]:
        trial["label"] = f"percentile:99.999, {trial['label']}, biases corrected"
    text = re.sub(r"\x1b\[[\d;]*m", "", shown(document))
    drawn = [line for line in text.splitlines() if line[:1] in " ┏┃┡│└"]
    assert max(map(len, drawn)) <= 80


def test_figures_stay_whole_however_narrow(shown, monkeypatch):
    monkeypatch.setenv("COLUMNS", "66")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "│ -0.0200 to 0.0000 │" in shown(tuned())


def test_what_each_pin_buys(shown):
    document = tuned()
    document["pins"][0] |= {"error_without": None, "figure_without": None}
    document["pins"][2]["error_without"] = None
    heading, first, second, third, *_ = table(shown(document), "what each pin buys")
    assert heading == ["node", "type", "error without", "with", "figure without", "with"]
    assert first == ["p2o.Conv.5", "Conv", "-", "0.000235", "-", "0.9925"]
    assert second == ["p2o.Conv.1", "Conv", "0.0031", "0.000235", "0.9575", "0.9925"]
    assert third[2] == "infinite"
    document["pins"][1]["latency_ms"] = 0.0204
    timed = table(shown(document), "what each pin buys")
    assert [row[-1] for row in timed[:3]] == ["costs, ms", "-", "0.020"]


def test_what_else_was_found(shown):
    lines = shown(tuned()).splitlines()
    assert lines[-3:] == [
        "settings tried: 7; least error without pins: auto, equalized (0.0015)",
        "most sensitive of 51 nodes: p2o.Conv.5, p2o.Conv.3, p2o.Conv.1, p2o.Conv.7, p2o.Conv.2 and 46 more",
        "written: engines/ocr-rec/tuned.toml",
    ]


def test_one_trial_without_pins(shown):
    text = shown(single())
    assert len(table(text, "pins against")) == 2
    assert text.splitlines()[-3:] == [
        "@ best (trial 1, passed with margin)",
        "no pins added",
        "nothing was written",
    ]
    assert "more trials" not in text
    assert "what each pin buys" not in text
    assert sum("@" in line for line in drawing(text)[0]) == 1


def test_without_a_metric(shown):
    text = shown(without_metric())
    assert text.startswith("passed: ocr-rec, least SQNR of the outputs 41.2 dB, 6 of 51 nodes pinned")
    heading, *rows = table(text, "pins against least SQNR of the outputs, dB")
    assert heading[1:] == ["setting", "trial", "pins", "figure", "error", "gate"]
    assert rows[0][4:6] == ["25.2", "infinite"]
    lines, _ = drawing(text)
    assert not any(line.endswith(("golden", "gate")) for line in lines)


def test_all_failed_and_interrupted(shown):
    document = {
        **single(passed=False, margin=False, failing=["y: cosine [b] 0.9, wanted 0.99"]),
        "interrupted": True,
    }
    document["outcome"] = "failed"
    lines = shown(document).splitlines()
    assert lines[0].startswith("interrupted, best so far: failed: ocr-rec, ")
    assert lines[1] == "y: cosine [b] 0.9, wanted 0.99"
    assert "@ best (trial 1, failed)" in lines


def test_no_figure_no_plot(shown):
    text = shown(single(figure=None, drop=None, interval=None))
    assert "─ golden" not in text
    assert "@ best (trial 1" in text
    assert table(text, "pins against")[1][4:7] == ["-", "-", "-"]


def test_no_name_is_markup(shown):
    document = tuned()
    name = "[bold]block[/bold]/[red]Conv[/]" + "/deeper" * 12
    document |= {"engine": "[i]e[/i]", "metric": "[u]m.py:f[/u]", "written": "[link=x]a[/link]"}
    document["trials"][-1] |= {"label": "[b]auto[/b]", "why": "[s]best[/s]"}
    document["pins"][0] |= {"node": name, "op_type": "[b]Conv[/b]"}
    document["sensitivity"]["nodes"][0]["node"] = name
    text = shown(document)
    for words in ("[i]e[/i]", "[u]m.py:f[/u] 0.99", "written: [link=x]a[/link]", "[b]auto[/b] ([s]best[/s])"):
        assert words in text
    assert f"most sensitive of 51 nodes: {name}, " in text
    assert "[b]Conv[/b]" in text
    node = explained(node=name, reason="rule [b]1[/b]", op_type="[b]x[/b]")
    assert f"{name} ([b]x[/b]) of ocr-rec: int8 (rule [b]1[/b])" in shown(node, render.explain)


def test_explain(shown):
    text = shown(explained(), render.explain)
    assert text.splitlines()[:3] == [
        "p2o.Conv.5 (Conv) of ocr-rec: int8 (default)",
        "rank 1 of 51, the most sensitive first",
        "the two halves of the samples put it at 1 and 1: they agree (all nodes: Spearman 0.93)",
    ]
    heading, *rows = table(text, "errors of the outputs, 16 samples")
    assert heading[-4:] == ["NSR", "SQNR, dB", "KL, nats", "metric.py:exact_match"]
    assert rows == [
        ["alone in int8", "0.04", "14.0", "0.48", "0.9700"],
        ["- its activations only", "0.0388", "14.1", "0.466", "-"],
        ["- its weights only", "0.0008", "31.0", "0.0096", "-"],
        ["the recipe as it is", "0.12", "9.2", "1.44", "0.9100"],
        ["the recipe, but it in float", "0.08", "11.0", "0.96", "0.9300"],
    ]
    for line in (
        "its activations alone make 97% of its error; its weights alone make 2% of its error "
        "(they need not add up)",
        "back in float32 while all else is as the recipe has it, it lowers the error by 33.3%",
        "and the metric goes from 0.9100 to 0.9300",
    ):
        assert f"\n{line}\n" in text
    assert table(text, "what it reads") == [
        ["tensor", "is", "range (amax)", "method", "channels", "spread of channels"],
        ["hardswish_1.tmp_0", "activation", "3.1", "percentile:99.99", "120", "380"],
        ["conv2d_5.w_0", "constant", "0.75", "-", "-", "-"],
    ]


def test_explain_says_what_is_uncertain_and_what_does_harm(shown):
    document = explained(ranks_of_halves=[1, 14], reverted=measure(0.126))
    document["sensitivity"]["agreement"] = None
    text = shown(document, render.explain)
    assert "put it at 1 and 14: its rank is uncertain\n" in text
    assert "it raises the error by 5.0%" in text
    assert "the metric goes" not in text
    same = explained(ranks_of_halves=[1, 1])
    same["sensitivity"]["agreement"] = None
    assert "put it at 1 and 1: its rank is uncertain\n" in shown(same, render.explain), "of one sample"


def test_explain_says_nothing_of_what_was_not_measured(shown):
    document = explained(activations=None, weights=None, reverted=None, alone=measure(None))
    document["sensitivity"]["metric"] = None
    text = shown(document, render.explain)
    heading, *rows = table(text, "errors of the outputs")
    assert heading[-3:] == ["NSR", "SQNR, dB", "KL, nats"]
    assert rows == [
        ["alone in int8", "infinite", "no signal", "-"],
        ["the recipe as it is", "0.12", "9.2", "1.44"],
    ]
    assert "alone make" not in text
    assert "back in float32" not in text


def test_explain_of_a_node_without_any_error(shown):
    nothing = {"nsr": 0.0, "kl": 0.0, "halves": [0.0, 0.0], "score": None}
    text = shown(explained(alone=nothing, activations=nothing, weights=nothing), render.explain)
    assert table(text, "errors of the outputs")[1][1:4] == ["0", "equal", "0"]
    assert "alone make" not in text

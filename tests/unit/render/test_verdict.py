"""What `validate` prints of a document: the figures over all samples, a row each."""

import re

import pytest

from trtbuild.render.verdict import verdict

METRIC = {
    "name": "metric.py:top1",
    **{"samples": 400, "golden": 0.985, "candidate": 0.9875, "max_drop": 0.01, "drop": -0.0025},
    **{"interval": [-0.0125, 0.0075], "baseline": None, "ece": None},
}
BASELINE = {
    **{"build": "0123abcd", "mean": 0.98, "drop": -0.0075, "interval": [-0.02, 0.005]},
    **{"tolerance": 0.01, "outcome": "not worse"},
}
CLASSES = {"rows": 16000, "argmax_changed": 0.00125, "unranked": 0, "kl": 0.00123456, "probabilities": True}


NOTHING = {
    **{"build": "b", "passed": True, "layers": [], "worst": [], "first_divergence": None},
    **{"not_checked": {}, "checks": [], "metric": None, "outputs": []},
}


def output(tensor, classes):
    return {"tensor": tensor, "classes": classes}


@pytest.fixture
def shown(capsys):
    def show(metric=None, outputs=()):
        verdict({**NOTHING, "metric": metric, "outputs": list(outputs)})
        lines = capsys.readouterr().out.splitlines()
        start = lines.index(next((line for line in lines if line.startswith("over all samples")), lines[0]))
        rows = [re.split(r" *│ *", line.strip("│ ")) for line in lines[start:] if line.startswith("│")]
        return [row for row in rows if len(row) == 5]

    return show


def test_nothing_measured_no_table(shown):
    assert shown(outputs=[output("y", None)]) == []


def test_a_metric_and_its_interval(shown):
    assert shown(METRIC) == [["metric.py:top1", "0.9850", "0.9875", "-0.0025", "-0.0125 to 0.0075"]]
    assert shown({**METRIC, "interval": None})[0][-1] == "-"


def test_a_baseline(shown):
    assert shown({**METRIC, "baseline": BASELINE})[1:] == [
        ["against 0123abcd", "0.9800, baseline", "0.9875", "-0.0075", "-0.0200 to 0.0050"]
    ]
    assert shown({**METRIC, "baseline": {**BASELINE, "interval": None}})[1][-1] == "-"


def test_a_calibration_error(shown):
    ece = {"golden": 0.02, "candidate": 0.0325, "bins": 15}
    assert shown({**METRIC, "ece": ece})[1:] == [["calibration error", "0.0200", "0.0325", "0.0125", "-"]]


def test_changed_winners_of_outputs_that_have_classes(shown):
    outputs = [output("y", CLASSES), output("boxes", None), output("[z]", {**CLASSES, "kl": None})]
    assert [(row[0], row[3]) for row in shown(outputs=outputs)] == [
        ("y: argmax of 16000 rows (KL 0.001235)", "0.125%"),
        ("[z]: argmax of 16000 rows (KL -)", "0.125%"),
    ]


def test_the_worst_layers_and_whose_error_it_is(capsys):
    def layer(tensor, node, **decibels):
        found = {name: {"sqnr_db": value, "max_abs": 1.5, "cosine": 0.5} for name, value in decibels.items()}
        none = {"own": None, "inherited": None, "noise": None}
        return {"tensor": tensor, "node": node, "precision": "int8", **none, **found}

    layers = [
        layer("near", "m", difference=40.0, own=41.0),
        layer("far", "n", difference=10.0, inherited=11.0),
    ]
    verdict({**NOTHING, "layers": layers})
    lines = capsys.readouterr().out.splitlines()
    heading, *rows = (re.split(r" *[│┃] *", line.strip("│┃ ")) for line in lines if line[:1] in "│┃")
    assert heading == ["tensor", "node", "precision", "SQNR, dB", "own", "inherited", "cosine", "max abs"]
    assert rows[0] == ["far", "n", "int8", "10.0", "-", "11.0", "0.5", "1.5"]
    assert rows[1] == ["near", "m", "int8", "40.0", "41.0", "-", "0.5", "1.5"]

"""The user's metric.py and labels; what goes wrong there is told as the user's."""

import json
import sys

import numpy as np
import pytest

from trtbuild.errors import InputError
from trtbuild.golden.metric_file import Score, load

OUTPUTS = {"y": np.array([[1.0, 3.0, 2.0]], np.float32)}


@pytest.fixture
def metric(tmp_path):
    def make(text, labels='{"s:0": 1}', reference="metric.py:score"):
        (tmp_path / "metric.py").write_text(text)
        (tmp_path / "labels.json").write_text(labels)
        return load(reference, tmp_path, tmp_path / "labels.json")

    return make


def test_a_metric_is_given_outputs_and_label(metric):
    loaded = metric("def score(outputs, label):\n    return outputs['y'].argmax() == label\n")
    assert loaded.name == "metric.py:score"
    assert loaded(OUTPUTS, "s:0") == Score(1.0, None)
    assert type(loaded(OUTPUTS, "s:0").value) is float


@pytest.mark.parametrize(
    ("returned", "score"),
    [
        ("(1, 0.75)", Score(1.0, 0.75)),
        ("(0.5, 0)", Score(0.5, 0.0)),
        ("(True, outputs['y'].max() / 3)", Score(1.0, 1.0)),
        ("(0, np.float32(1) + np.finfo(np.float32).eps)", Score(0.0, 1 + 2**-23)),
        ("0", Score(0.0)),
        ("-3", Score(-3.0)),
        ("np.array(2.5)", Score(2.5)),
    ],
)
def test_a_metric_may_return_a_confidence_beside_the_score(metric, returned, score):
    """float32 probabilities may be above 1 by their rounding."""
    loaded = metric(f"import numpy as np\ndef score(outputs, label):\n    return {returned}\n")
    assert loaded(OUTPUTS, "s:0") == score


@pytest.mark.parametrize(
    ("labels", "label"),
    [('{"s:0": "text"}', "text"), ('{"s:0": null}', None), ('{"s:0": {"a": [1]}}', {"a": [1]})],
)
def test_labels_may_be_anything_in_json(metric, labels, label):
    loaded = metric(f"def score(outputs, label):\n    assert label == {label!r}\n    return 0.25\n", labels)
    assert loaded(OUTPUTS, "s:0").value == 0.25


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise KeyError('x')", "metric metric.py:score raised KeyError on sample s:0: 'x'"),
        ("raise SystemExit(0)", "raised SystemExit on sample s:0"),
        ("raise BaseException('x')", "raised BaseException on sample s:0: x"),
        ("return 1e308", r"returned 1e\+308 for sample s:0; expected a finite number"),
        ("return None", "returned NoneType None for sample s:0; expected a number, or .score, confidence.$"),
        ("return 'much'", "returned str 'much' for sample s:0"),
        ("return outputs['y']", r"returned ndarray array\(\[\[1., 3., 2.\]\].* for sample s:0"),
        ("return float('nan')", "returned nan for sample s:0; expected a finite number"),
        ("return float('-inf')", "returned -inf for sample s:0"),
        ("return ()", "returned a tuple of 0 for sample s:0; expected a number, or .score, confidence.$"),
        ("return (1,)", "returned a tuple of 1 for sample s:0"),
        ("return 1, 0.5, 0", "returned a tuple of 3 for sample s:0"),
        ("return 1, None", r"returned tuple \(1, None\) for sample s:0"),
        ("return [1, 0.5]", r"returned list \[1, 0.5\] for sample s:0"),
        ("return float('nan'), 0.5", "returned nan for sample s:0; expected a finite number"),
        ("return 1, float('nan')", "with confidence nan for sample s:0; expected 0 to 1$"),
        ("return 1, 1.01", "with confidence 1.01 for sample s:0; expected 0 to 1"),
        ("return 1, -0.01", "with confidence -0.01 for sample s:0; expected 0 to 1"),
        ("return 1.5, 0.5", "with score 1.5 for sample s:0; expected 0 to 1"),
        ("return -1, 0.5", "with score -1.0 for sample s:0; expected 0 to 1"),
    ],
)
def test_what_a_metric_may_not_do(metric, body, words):
    loaded = metric(f"def score(outputs, label):\n    {body}\n")
    with pytest.raises(InputError, match=words) as caught:
        loaded(OUTPUTS, "s:0")
    assert "\n" not in str(caught.value)
    if "raised" in words:
        assert caught.value.__cause__ is not None  # its own traceback, for -v


def test_an_interrupt_inside_a_metric_is_no_mistake_of_it(metric):
    loaded = metric("def score(outputs, label):\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        loaded(OUTPUTS, "s:0")


def test_a_missing_label(metric):
    loaded = metric("def score(outputs, label):\n    return 1\n")
    with pytest.raises(InputError, match="no label for sample 's:1'; nearest: s:0"):
        loaded(OUTPUTS, "s:1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 / 0", "metric.py raised ZeroDivisionError when loaded: division by zero; -v shows its traceback"),
        ("import nothing_like_it", "raised ModuleNotFoundError when loaded"),
        ("def score(:", "raised SyntaxError when loaded"),
        ("raise SystemExit('done')", "raised SystemExit when loaded: done"),
        ("def scores(o, l): return 1", "has no function 'score'; nearest: scores"),
        ("score = 1", "has no function 'score'"),
    ],
)
def test_a_file_that_is_no_metric(metric, text, words):
    with pytest.raises(InputError, match=words):
        metric(text + "\n")


@pytest.mark.parametrize("labels", ["", "{", "[1]", '"text"', "1"])
def test_labels_that_are_none(metric, labels):
    with pytest.raises(InputError, match=r"labels\.json: (not valid JSON|expected a JSON object)"):
        metric("def score(o, l): return 1\n", labels)


def test_missing_files(tmp_path):
    with pytest.raises(InputError, match=r"metric\.py: no such metric file"):
        load("metric.py:score", tmp_path, tmp_path / "labels.json")
    (tmp_path / "metric.py").write_text("def score(o, l): return 1\n")
    with pytest.raises(InputError, match=r"labels\.json: no such labels file"):
        load("metric.py:score", tmp_path, tmp_path / "labels.json")


def test_two_metrics_of_one_name_are_two(tmp_path, metric):
    metric("def score(o, l): return 1\n")
    other = tmp_path / "other"
    other.mkdir()
    (other / "metric.py").write_text("def score(o, l): return 0.5\n")
    (other / "labels.json").write_text(json.dumps({"s:0": 0}))
    assert load("metric.py:score", other, other / "labels.json")(OUTPUTS, "s:0").value == 0.5


def test_what_it_prints_goes_to_stderr(metric, capsys):
    loaded = metric("print('loading')\ndef score(o, l):\n    print('scoring')\n    return 1\n")
    loaded(OUTPUTS, "s:0")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "loading\nscoring\n"
    print("mine", file=sys.stdout)
    assert capsys.readouterr().out == "mine\n"


def test_a_dataclass_in_a_metric(metric):
    loaded = metric(
        "from __future__ import annotations\nimport dataclasses\n"
        "@dataclasses.dataclass\nclass Score:\n    value: float\n"
        "def score(o, l): return Score(0.5).value\n"
    )
    assert loaded(OUTPUTS, "s:0").value == 0.5

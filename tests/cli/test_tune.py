"""tune: an engine with one node that cannot stand int8, searched, written, built and checked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.cli.conftest import Run
from trtbuild.model.model import Model
from trtbuild.tune.judge import Judge

BODY = """
    c1 = Conv<pads = [1,1,1,1]>(x, w1) r1 = Relu(c1) s1 = Mul(r1, spread)
    c2 = Conv<pads = [1,1,1,1]>(s1, w2) r2 = Relu(c2)
    c3 = Conv<pads = [1,1,1,1]>(r2, w3) r3 = Relu(c3)
    g = GlobalAveragePool(r3) f = Flatten(g) m = Gemm(f, w4, b4) y = Softmax(m)
"""
RECIPE = """
[precision]
budget = 0.5
[validation]
samples = "validation"
labels = "validation/labels.json"
metric = "metric.py:top1"
max_drop = 0.05
"""
SAMPLES = 100


def logits(model: Path, x: Any) -> Any:
    """The logarithms of what the model says, which are its logits but for a constant."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["y"], {"x": x.astype(np.float32)})
    return np.log(np.maximum(probabilities, 1e-30))


@pytest.fixture
def spread(toy: Path, model_file: Callable[..., Path]) -> Path:
    """What Conv_c2 reads is spread over five decades, and what reads it makes up for that: one scale for all
    of it leaves nothing of the small channels, which count as much. Labels are what the float model says."""
    random = np.random.default_rng(5)
    channels = 8
    spread = np.logspace(0, 5, channels).astype(np.float32).reshape(1, channels, 1, 1)

    def weight(*shape: int) -> Any:
        return (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    weights = {
        "w1": weight(channels, 3, 3, 3),
        "spread": spread,
        "w2": (weight(channels, channels, 3, 3) / spread).astype(np.float32),
        "w3": weight(channels, channels, 3, 3),
        "w4": (random.standard_normal((channels, 3)) * 30).astype(np.float32),
        "b4": np.zeros(3, np.float32),
    }
    mean = logits(model_file(toy / "model.onnx", BODY, weights), random.standard_normal((500, 3, 8, 8))).mean(
        axis=0
    )
    model_file(toy / "model.onnx", BODY, weights | {"b4": -mean})
    (toy / "recipe.toml").write_text(RECIPE)
    labels = {}
    for folder, count in (("shards", 32), ("validation", SAMPLES)):
        for old in (toy / folder).glob("*.npz"):
            old.unlink()
        x = random.standard_normal((count, 3, 8, 8)).astype(np.float32)
        np.savez(toy / folder / "0.npz", x=x)
        labels = {
            f"0:{row}": int(value) for row, value in enumerate(logits(toy / "model.onnx", x).argmax(axis=1))
        }
    (toy / "validation" / "labels.json").write_text(json.dumps(labels))
    return toy


WITHOUT = ("--no-repairs", "--set", "calibration.method=minmax")


FEW = ("--budget", 0.25, "--no-margin", "--set", "validation.max_drop=0.03")


def tuned(run: Run, *options: object, code: int = 0) -> dict[str, Any]:
    result = run("tune", "toy", *options, "--json")
    assert result.code == code, result.err
    return result.document


def best(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["trials"][document["best"] - 1]
    return found


def refused(run: Run, *options: object) -> str:
    """The one line that says what is wrong; nothing was written."""
    result = run("tune", "toy", *options)
    assert result.code == 2, result.err
    (line,) = result.errors
    assert not Path("engines/toy/tuned.toml").exists()
    return line


def test_it_pins_the_node_that_needs_it(run: Run, spread: Path) -> None:
    document = tuned(run, *WITHOUT)
    found = best(document)
    assert "Conv_c2" in found["pins"]
    assert document["outcome"] == "passed with margin"
    assert found["pinned"] <= document["most_pins"] == 2
    assert found["interval"][1] <= 0.05
    (pin,) = (pin for pin in document["pins"] if pin["node"] == "Conv_c2")
    assert pin["figure_without"] < 0.6
    assert pin["figure"] > 0.9
    assert pin["error_without"] > 100 * pin["error"]
    assert document["sensitivity"]["nodes"][1]["node"] == "Conv_c2"
    assert document["sensitivity"]["nodes"][1]["rank"] == 1


def test_a_build_of_it_is_what_was_judged(run: Run, spread: Path) -> None:
    found = best(tuned(run, *WITHOUT))
    built = run("build", "toy", "--json")
    assert "tuned.toml: " in built.err
    precision = built.document["precision"]
    assert precision["pinned"] == found["pins"]
    assert precision["nodes"]["Conv_c2"]["reason"].startswith("rule Conv_c2: tune: typical error")
    verdict = run("validate", "toy", "--json").document
    assert verdict["metric"]["candidate"] == found["figure"]
    assert verdict["metric"]["interval"] == found["interval"]
    assert verdict["passed"]


def test_what_costs_no_speed_goes_first(run: Run, spread: Path) -> None:
    """Equalized, the spread is gone."""
    document = tuned(run)
    (first, *others) = document["trials"]
    assert not first["passed"]
    assert not first["pins"]
    assert any(trial["equalize"] and trial["passed"] and not trial["pins"] for trial in others)
    assert best(document)["pinned"] <= 1


def test_where_no_pin_is_needed_nodes_are_looked_at_on_demand(run: Run, spread: Path) -> None:
    options = ("--set", "calibration.equalize=0.5", "--no-margin", "--set", "validation.max_drop=0.1")
    assert tuned(run, *options)["sensitivity"] is None
    assert len(tuned(run, *options, "--scan")["sensitivity"]["nodes"]) == 4


def test_the_seed_decides_and_a_rerun_measures_nothing(run: Run, spread: Path) -> None:
    written = spread / "tuned.toml"
    document, text = tuned(run, *WITHOUT), written.read_text()
    (journal,) = (spread / "builds" / "tune").iterdir()
    lines = journal.read_bytes()
    assert tuned(run, *WITHOUT) == document
    assert journal.read_bytes() == lines
    journal.unlink()
    assert tuned(run, *WITHOUT) == document
    assert written.read_text() == text
    assert tuned(run, *WITHOUT, "--seed", 1)["samples"]["seed"] == 1


def test_it_goes_on_from_wherever_it_was_killed(run: Run, spread: Path) -> None:
    document = tuned(run, *WITHOUT)
    (journal,) = (spread / "builds" / "tune").iterdir()
    whole = journal.read_bytes()
    for share in (0.2, 0.6, 0.9):
        journal.write_bytes(whole[: int(len(whole) * share)])
        assert tuned(run, *WITHOUT) == document
        assert journal.read_bytes() == whole


@pytest.mark.parametrize(("judged", "passes"), [(3, False), (4, True)])
def test_ctrl_c_keeps_the_best_so_far(
    run: Run, spread: Path, monkeypatch: pytest.MonkeyPatch, judged: int, passes: bool
) -> None:
    real, calls = Judge.judge, []

    def judge(self: Judge, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > judged:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(Judge, "judge", judge)
    result = run("tune", "toy", *WITHOUT)
    assert result.code == 130
    assert "best so far: trial " in result.err
    assert "run tune again to go on" in result.err
    assert (spread / "tuned.toml").exists() is passes, "only what passes the gate is written"
    if passes:
        assert "(interrupted)" in run("pins", "toy").err
    monkeypatch.setattr(Judge, "judge", real)
    resumed = run("tune", "toy", *WITHOUT, "--json")
    assert "results found before" in resumed.err
    assert resumed.document["outcome"] == "passed with margin"


def test_the_recipes_own_pins_stay(run: Run, spread: Path) -> None:
    recipe = spread / "recipe.toml"
    recipe.write_text(recipe.read_text() + '[[pin]]\nname = "Conv_c2"\n[[pin]]\nname = "Gemm_m"\n')
    document = tuned(run, *WITHOUT)
    assert document["own_pins"] == 2
    assert best(document)["pinned"] == 2
    assert document["pins"] == []
    assert len(document["trials"]) == 1


def test_without_a_margin_the_mean_decides(run: Run, spread: Path) -> None:
    assert "are too few to tell a drop" in refused(run, *WITHOUT, "--set", "validation.max_drop=0.03")
    document = tuned(run, *WITHOUT, "--set", "validation.max_drop=0.03", "--no-margin")
    assert best(document)["passed"]
    assert best(document)["drop"] <= 0.03


def test_a_budget_that_is_not_enough_fails(run: Run, spread: Path) -> None:
    """What was found is written all the same, and says so."""
    document = tuned(run, *WITHOUT, *FEW, code=1)
    assert document["outcome"] == "failed"
    assert best(document)["pins"] == ["Conv_c2"]
    assert "(failed)" in run("pins", "toy").err


def test_without_a_metric_the_thresholds_of_outputs_decide(run: Run, spread: Path) -> None:
    (spread / "recipe.toml").write_text("[validation.outputs]\nsqnr_db = 20\n")
    document = tuned(run, *WITHOUT)
    assert (document["metric"], document["golden"]) == (None, None)
    assert best(document)["figure"] >= 20
    assert "Conv_c2" in best(document)["pins"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--budget", 0), r"a budget of 0 allows no pin; one of 4 nodes is 25\.00%"),
        (("--budget", 0.6), r"--budget 0\.6 is above precision\.budget, 0\.5, by which builds go"),
        (("--budget", "nan"), "expected a number"),
        (("--html", "engines/toy/tuned.toml"), "is where the pins are written"),
        (("--explain", "Conv_c2", "-o", "x.toml"), "--explain writes no files"),
        (("--draw", 101), r"--draw 101: .*validation has 100 samples"),
        (("--set", "precision.default=fp16"), "precision.default is fp16; --set precision.default=int8"),
        (("--set", "validation.max_drop=0.001"), r"100 validation samples are too few .* 3688 are needed"),
        (("--set", "validation.max_drop=0"), r"no number of samples .* --no-margin"),
        (("--by", "latency"), "--by latency goes by measured milliseconds: give --latency FILE"),
        (("--budget-ms", 1), "--budget-ms goes by measured milliseconds"),
        (("--explain", "Conv_c4"), r"--explain Conv_c4: .* no such node; nearest: .*Conv_c"),
        (("--explain", "Relu_r1"), r"never in int8 \(Relu has no int8 form\)"),
        (("-o", "engines"), "--output engines is a folder"),
        (("--html", "engines/toy/recipe.toml"), "is there and is no such report"),
        (
            (
                "--set",
                "validation.output.y.class_axis=7",
                "--set",
                "validation.output.y.argmax_agreement=0.5",
            ),
            "the gate fails the float model itself, so no pins can pass it: y argmax agreement",
        ),
    ],
)
def test_bad_input_is_said_at_once(run: Run, spread: Path, options: tuple[object, ...], said: str) -> None:
    assert re.search(said, refused(run, *options)), refused(run, *options)


def test_a_metric_that_is_not_deterministic_is_refused(run: Run, spread: Path) -> None:
    (spread / "metric.py").write_text(
        "import random\ndef top1(outputs, label):\n    return random.random()\n"
    )
    assert "metric metric.py:top1 is not deterministic: sample 0:0 scored 0." in refused(run)


def test_a_metric_may_change_what_it_is_given(run: Run, spread: Path) -> None:
    metric = spread / "metric.py"
    plain = best(tuned(run, *WITHOUT))
    changes = metric.read_text().replace("    return", '    outputs["y"] -= 0.25\n    return')
    metric.write_text(changes)
    assert best(tuned(run, *WITHOUT))["figure"] == plain["figure"]


def test_a_file_that_the_metric_reads_is_looked_at(run: Run, spread: Path) -> None:
    tuned(run, *WITHOUT)
    (spread / "limits.json").write_text("{}")
    assert "results found before" not in run("tune", "toy", *WITHOUT).err


def test_a_share_too_small_for_a_pin_leaves_the_settings(run: Run, spread: Path) -> None:
    result = run("tune", "toy", *WITHOUT, "--budget", 0.2, "--json")
    assert "note: a budget of 0.2 leaves no pin, of 4 nodes: settings only" in result.err
    assert not any(trial["pins"] for trial in result.document["trials"])


def test_what_fails_does_not_take_the_place_of_what_passes(run: Run, spread: Path) -> None:
    tuned(run, *WITHOUT)
    before = (spread / "tuned.toml").read_text()
    result = run("tune", "toy", *WITHOUT, *FEW, "--json")
    assert result.code == 1
    assert result.document["written"] is None
    assert "tuned.toml passed it: that stays" in result.err
    assert (spread / "tuned.toml").read_text() == before


def test_what_the_command_line_adds_is_said(run: Run, spread: Path) -> None:
    """Builds do not know of it."""
    result = run("tune", "toy", "--no-repairs", "--pin", "Conv_c2")
    assert "note: what is found is found with --pin Conv_c2; builds need the same" in result.err
    assert "# Found with --pin Conv_c2: builds need the same." in (spread / "tuned.toml").read_text()


def test_layers_are_left_to_validate(run: Run, spread: Path) -> None:
    result = run("tune", "toy", *WITHOUT, "--set", "validation.layers.sqnr_db=500")
    assert result.code == 0
    assert "note: [validation.layers] is not looked at here" in result.err


CHAIN = "m0 = MatMul(x, w0) m1 = MatMul(m0, w1) m2 = MatMul(m1, w2) m3 = MatMul(m2, w3) y = Identity(m3)"
"""No pin alone lowers the error by much, and all of them all of it."""
POLES = "m1 = MatMul(x, w1) p1 = Reciprocal(m1) m2 = MatMul(x, w2) p2 = Reciprocal(m2) y = Add(p1, p2)"
"""Int8 rounds to zero in some samples, so the outputs are infinite until both are pinned."""


@pytest.mark.parametrize(("body", "decibels", "pins"), [(CHAIN, 100, 4), (POLES, 20, 2)])
def test_it_goes_on_where_no_pin_alone_helps(
    run: Run, toy: Path, model_file: Callable[..., Path], body: str, decibels: int, pins: int
) -> None:
    random = np.random.default_rng(0)
    weights = {name: np.eye(3, dtype=np.float32) * 0.99 for name in ("w0", "w1", "w2", "w3") if name in body}
    model_file(toy / "model.onnx", body, weights, inputs="float[n,3] x")
    (toy / "recipe.toml").write_text(f"[validation.outputs]\nsqnr_db = {decibels}\n")
    for folder in ("shards", "validation"):
        for old in (toy / folder).glob("*.npz"):
            old.unlink()
        np.savez(toy / folder / "0.npz", x=10 ** random.uniform(-3, 0, (16, 3)).astype(np.float32))
    document = tuned(run, "--no-repairs", "--no-margin")
    assert best(document)["passed"]
    assert best(document)["pinned"] == pins


def test_a_bare_model_has_no_place_for_pins(run: Run, spread: Path) -> None:
    result = run("tune", spread / "model.onnx")
    assert result.code == 2
    assert "tune writes its pins beside a recipe.toml" in result.err


def test_a_file_of_somebody_else_stays(run: Run, spread: Path) -> None:
    (spread / "tuned.toml").write_text("[mine]\n")
    result = run("tune", "toy")
    assert result.code == 2
    assert "so tune did not write it; move it away" in result.err
    assert (spread / "tuned.toml").read_text() == "[mine]\n"


def test_it_writes_elsewhere_and_as_html(run: Run, spread: Path, tmp_path: Path) -> None:
    document = tuned(run, *WITHOUT, "-o", tmp_path / "found.toml", "--html", tmp_path / "found.html")
    assert document["written"] == str(tmp_path / "found.toml")
    assert not (spread / "tuned.toml").exists()
    assert "Conv_c2" in (tmp_path / "found.toml").read_text()
    assert "Conv_c2" in (tmp_path / "found.html").read_text()
    shown = run("tune", "toy", *WITHOUT, "-o", tmp_path / "found.toml", "--html", tmp_path / "found.html")
    assert shown.code == 0, shown.err
    assert "passed with margin: toy, metric.py:top1" in shown.out


def test_what_is_known_of_a_node(run: Run, spread: Path) -> None:
    document = run("tune", "toy", "--explain", "Conv_c2", "--score", "--json").document
    node = document["node"]
    assert (node["rank"], document["of"], node["precision"]) == (1, 4, "int8")
    assert node["alone"]["score"] < 0.7
    assert node["reverted"]["score"] > 0.8
    activation, weight = node["inputs"]
    assert (activation["tensor"], activation["method"], activation["channels"]) == ("s1", "minmax", 8)
    assert activation["spread"] > 1e4
    assert weight["spread"] < 10
    shown = run("tune", "toy", "--explain", "Conv_c2")
    assert "rank 1 of 4" in shown.out
    tuned(run, *WITHOUT)
    assert run("tune", "toy", "--explain", "Conv_c2", "--json").document["node"]["pinned"]


def latencies(path: Path, **nodes: float) -> Path:
    """A document of bench in which int8 saves so many milliseconds of each node."""
    model = Model.open(Path("engines/toy/model.onnx")).sha256
    times = {node: {"fp32": 1 + saved, "int8": 1.0} for node, saved in nodes.items()}
    both = {"fp32": 0.0, "int8": 0.0}
    layers = {"nodes": times, "other": both, "total": both, "method": "by hand"}
    path.write_text(json.dumps({"schema_version": 1, "model": model, "layers": layers}))
    return path


def test_pins_by_what_they_cost(run: Run, spread: Path, tmp_path: Path) -> None:
    """Of the nodes left, another one is chosen where the one that helps most is dear."""
    cheap = latencies(tmp_path / "a.json", Conv_c1=0.1, Conv_c2=0.1, Conv_c3=0.1, Gemm_m=0.1)
    dear = latencies(tmp_path / "b.json", Conv_c1=0.1, Conv_c2=0.1, Conv_c3=0.1, Gemm_m=50.0)
    options = (*WITHOUT, "--set", "validation.max_drop=0.04", "--by", "latency", "--latency")
    chosen = {pin["node"]: pin["latency_ms"] for pin in tuned(run, *options, cheap)["pins"]}
    assert chosen.keys() == {"Conv_c2", "Gemm_m"}
    assert chosen["Gemm_m"] == pytest.approx(0.1)
    document = run("tune", "toy", *options, dear, "--json").document
    assert all("Gemm_m" not in trial["pins"] for trial in document["trials"])
    document = run("tune", "toy", *options, cheap, "--budget-ms", 0.15, "--json").document
    assert {len(trial["pins"]) for trial in document["trials"]} == {0, 1}

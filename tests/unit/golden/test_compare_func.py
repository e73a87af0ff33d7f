"""The comparison function inside real Polygraphy: its Comparator and its command line, on ONNX Runtime."""

import math
import subprocess
import sys

import numpy as np
import pytest
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.comparator import (
    Comparator,
    CosineSimilarityCompareFunc,
    L2CompareFunc,
    RunResults,
    SnrCompareFunc,
)
from polygraphy.comparator.struct import AccuracyResults, IterationResult
from polygraphy.exception import PolygraphyException

from trtbuild.errors import InputError
from trtbuild.golden.compare_func import GoldenCompareFunc

# Polygraphy logs statistics of every output, those of Inf and of nothing too.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

RNG = np.random.default_rng(2)
W = RNG.standard_normal((4, 6)).astype(np.float32)
POLYGRAPHY = "import sys; from polygraphy.tools import main; sys.exit(main())"
SAMPLES = [{"x": RNG.standard_normal((3, 4)).astype(np.float32)} for _ in range(2)]
BODY = "h = MatMul(x, w) y = Softmax(h)"


@pytest.fixture
def run(write_toy):
    """Models side by side in ONNX Runtime, the golden first -> what Polygraphy compares."""

    def runs(*models):
        runners = []
        for number, text in enumerate(models):
            session = SessionFromOnnx(str(write_toy(text, {"w": W})))
            runners.append(OnnxrtRunner(session, name=f"runner {number}"))
        return Comparator.run(runners, data_loader=SAMPLES)

    return runs


def toy(body=BODY, outputs="float[n,6] h, float[n,6] y"):
    return f"toy (float[n,4] x) => ({outputs}) {{ {body} }}"


def verdict(results, func=None):
    return Comparator.compare_accuracy(results, compare_func=func or GoldenCompareFunc())


def failures(results, func=None):
    """Of the first iteration: output -> why it failed."""
    found = verdict(results, func)
    (first, *_) = next(iter(found[0].values()))
    failed = {name: result.failures for name, result in first.items() if not result}
    assert bool(found) == (not failed)
    return failed


def given(golden, candidate):
    """Two arrays or dicts of arrays as if two runners had returned them."""
    sides = [x if isinstance(x, dict) else {"y": x} for x in (golden, candidate)]
    sides = [{name: np.asarray(array) for name, array in side.items()} for side in sides]
    return RunResults(
        [(f"r{i}", [IterationResult(side, runner_name=f"r{i}")]) for i, side in enumerate(sides)]
    )


def test_the_same_model_passes_and_is_measured(run):
    found = verdict(run(toy(), toy()))
    assert found
    (iterations,) = found[0].values()
    assert len(iterations) == 2
    for iteration in iterations:
        assert list(iteration) == ["h", "y"]
        assert iteration["h"].difference.count == 18
        assert iteration["h"].difference.sqnr_db == math.inf
        assert iteration["h"].classes is None
        # Polygraphy logs the statistics of the outputs that a result names.
        assert (iteration["h"].output0_name, iteration["h"].output1_name) == ("h", "h")


def test_it_measures_what_polygraphys_functions_do(run):
    results = run(
        toy(), toy("g = MatMul(x, w) c = Constant <value_float = 0.9> () h = Mul(g, c) y = Softmax(h)")
    )
    ours = next(iter(verdict(results)[0].values()))[0]
    functions = {"cosine": CosineSimilarityCompareFunc(), "l2": L2CompareFunc(), "sqnr_db": SnrCompareFunc()}
    fields = ("cosine_similarity", "l2_norm", "snr")
    for (name, function), field in zip(functions.items(), fields, strict=True):
        theirs = next(iter(verdict(results, function)[0].values()))[0]
        for output in ("h", "y"):
            expected = pytest.approx(getattr(theirs[output], field), rel=1e-5)
            assert getattr(ours[output].difference, name) == expected


def test_reordered_outputs_are_compared_by_name(run):
    swapped = toy(outputs="float[n,6] y, float[n,6] h")
    assert failures(run(toy(), swapped)) == {}


def test_a_missing_output_fails_on_either_side(run):
    less = toy(outputs="float[n,6] y")
    assert failures(run(toy(), less)) == {"h": ("the candidate does not have this output",)}
    assert failures(run(less, toy())) == {"h": ("the golden does not have this output",)}


@pytest.mark.parametrize("name", ["y2", "xyz", "q"])
def test_a_renamed_output_fails_however_alike(run, name):
    """Polygraphy's own functions match it by substring or by position and say PASSED."""
    renamed = toy(BODY.replace("y =", f"{name} ="), f"float[n,6] h, float[n,6] {name}")
    results = run(toy(), renamed)
    assert Comparator.compare_accuracy(results)
    assert set(failures(results)) == {"y", name}


def test_nothing_in_common_fails_and_does_not_raise():
    assert set(failures(given({"a": [1.0]}, {"b": [1.0]}))) == {"a", "b"}


@pytest.mark.parametrize(
    "body",
    [
        "g = MatMul(x, w) h = Neg(g) y = Softmax(g)",
        "g = MatMul(x, w) h = Sub(g, g) y = Softmax(g)",
        "g = MatMul(x, w) z = Sub(g, g) h = Div(z, z) y = Softmax(g)",
        "g = MatMul(x, w) h = Reciprocal(g) y = Softmax(g)",
    ],
    ids=["sign", "dead", "NaN", "other"],
)
def test_wrong_values_fail(run, body):
    assert set(failures(run(toy(), toy(body)))) == {"h"}


def test_wrong_shape_and_dtype_fail(run):
    flat = "h = MatMul(x, w) y = Softmax(h) s = Constant <value_ints = [-1]> () g = Reshape(h, s)"
    other = toy(
        f"{flat.replace('h =', 'k =').replace('(h', '(k').replace('g =', 'h =')}", "float[m] h, float[n,6] y"
    )
    assert failures(run(toy(), other)) == {"h": ("shape (18,) where the golden has (3, 6)",)}
    double = toy("g = MatMul(x, w) h = Cast <to = 11> (g) y = Softmax(g)", "double[n,6] h, float[n,6] y")
    assert failures(run(toy(), double)) == {"h": ("dtype float64 where the golden has float32",)}


@pytest.mark.parametrize(
    ("golden", "candidate", "why"),
    [
        ([1, np.nan], [1, np.nan], "NaN: 1 values, golden 1"),
        ([1.0, 2], [1, np.nan], "NaN: 1 values, golden 0"),
        ([1.0, 2], [1, np.inf], "NaN or Inf that the other side lacks: 1 values"),
        ([1, np.inf], [1, -np.inf], "NaN or Inf that the other side lacks: 1 values"),
        ([], [], "no values to compare"),
        (["a"], ["a"], "values of dtype <U1 cannot be compared as numbers"),
    ],
)
def test_what_is_no_number_fails(golden, candidate, why):
    assert why in failures(given(golden, candidate))["y"]


def test_a_mask_of_infinities_on_both_sides_is_none():
    assert failures(given([1, -np.inf], [1, -np.inf])) == {}


@pytest.mark.parametrize(
    ("name", "limit", "candidate", "passes"),
    [
        ("cosine", 0.9, [1, 1.1], True),
        ("cosine", 0.9, [1, -1.0], False),
        ("sqnr_db", 20, [1, 1.1], True),
        ("sqnr_db", 30, [1, 1.1], False),
        ("max_abs", 0.5, [1, 1.5], True),
        ("max_abs", 0.4999, [1, 1.5], False),
        ("max_rel", 0.5, [1, 1.5], True),
        ("max_rel", 0.4999, [1, 1.5], False),
        ("rmse", 0.36, [1, 1.5], True),
        ("rmse", 0.35, [1, 1.5], False),
    ],
)
def test_each_threshold_at_its_limit(name, limit, candidate, passes):
    func = GoldenCompareFunc(**{name: limit})
    found = failures(given([1.0, 1.0], candidate), func)
    assert (found == {}) == passes
    assert passes or found["y"][0].startswith(name)


def test_without_thresholds_those_of_the_gate_hold():
    assert failures(given([1.0, 1.0], [1.1, 1.1])) == {}
    (shown,) = failures(given([1.0, 1.0], [1.3, 1.3]))["y"]
    assert shown == "sqnr_db 10.4576, wanted >= 15"


def test_thresholds_per_output():
    results = given({"a": [1.0, 2.0], "b": [1.0, 2.0]}, {"a": [1.0, 2.5], "b": [1.0, 2.5]})
    assert set(failures(results, GoldenCompareFunc(max_abs={"a": 0.1, "": 1}))) == {"a"}
    assert set(failures(results, GoldenCompareFunc(max_abs={"a": 1, "": 0.1}))) == {"b"}
    assert set(failures(results, GoldenCompareFunc(max_abs={"a": 1}))) == {"b"}  # 14.1 dB: the gate's 15
    missed = failures(results, GoldenCompareFunc(sqnr_db=10, max_abs={"c": 1}))
    assert missed == {"c": ("no such output, yet a threshold",)}


@pytest.mark.parametrize("value", [math.nan, math.inf, "0.9", {"y": None}, {"": math.nan}])
def test_a_threshold_is_a_number(value):
    with pytest.raises(InputError, match=r"threshold cosine.* is .*; expected a finite number"):
        GoldenCompareFunc(cosine=value)


def test_class_scores(run):
    worse = toy("h = MatMul(x, w) c = Constant <value_float = -1.0> () g = Mul(h, c) y = Softmax(g)")
    results = run(toy(), worse)
    (argmax, _) = failures(results, GoldenCompareFunc(argmax_changed={"y": 0.5}, class_kl={"y": 0.01}))["y"]
    assert argmax == "argmax_changed 1, wanted <= 0.5"
    assert failures(results, GoldenCompareFunc(argmax_changed={"y": 1}, sqnr_db={"h": 60})) == {}
    found = verdict(run(toy(), toy()), GoldenCompareFunc(class_kl={"y": 0}))
    assert found
    (first, _) = next(iter(found[0].values()))
    assert (first["y"].classes.rows, first["y"].classes.probabilities) == (3, True)


def test_classes_along_another_axis():
    golden, candidate = np.array([[0.0, 5.0], [1.0, 0.0]]), np.array([[0.5, 0.2], [0.4, 0.3]])
    for axis, changed in ((-1, 1), (0, 1)):
        func = GoldenCompareFunc(argmax_changed=0.6, class_axis=axis)
        expected = (golden.argmax(axis) != candidate.argmax(axis)).mean()
        assert (failures(given(golden, candidate), func) == {}) == (expected <= 0.6), changed
    func = GoldenCompareFunc(argmax_changed=0, class_axis=1)
    for shape in ((3,), (3, 1), ()):
        (why,) = failures(given(np.ones(shape), np.ones(shape)), func)["y"]
        assert why.startswith(f"no class scores along axis 1 of shape {shape}")


def test_averages_over_iterations_are_refused(run):
    """The mean SQNR of one perfect and one ruined iteration is infinite."""
    with pytest.raises(PolygraphyException, match="average"):
        Comparator.compare_accuracy(run(toy(), toy()), compare_func=GoldenCompareFunc(), check_average=True)


def test_streamed_results(write_toy):
    file = str(write_toy(toy(), {"w": W}))
    runners = [OnnxrtRunner(SessionFromOnnx(file), name=name) for name in "ab"]
    stream = Comparator.run(runners, data_loader=SAMPLES, streaming=True)
    found = verdict(stream)
    assert found
    assert [len(iterations) for iterations in found[0].values()] == [2]


def test_saved_results_come_back(run, tmp_path):
    worse = toy("g = MatMul(x, w) h = Neg(g) y = Softmax(g)", "float[n,6] y, float[n,6] h")
    found = verdict(run(toy(), worse), GoldenCompareFunc(argmax_changed=0.5))
    file = tmp_path / "accuracy.json"
    found.save(str(file))
    loaded = AccuracyResults.load(str(file))
    assert not loaded
    (before, after) = (next(iter(x[0].values()))[0] for x in (found, loaded))
    for name, result in before.items():
        assert (after[name].failures, after[name].difference) == (result.failures, result.difference)
        assert after[name].classes == result.classes


def test_polygraphys_command_line(write_toy, tmp_path):
    """As the module's docstring says it, once for the same model and once for a worse one."""
    script = tmp_path / "gate.py"
    script.write_text(
        "from trtbuild.golden.compare_func import GoldenCompareFunc\n"
        "compare_outputs = GoldenCompareFunc(cosine=0.999, argmax_changed={'y': 0.01})\n",
        "utf-8",
    )
    good = write_toy(toy(), {"w": W})
    bad = write_toy(toy("g = MatMul(x, w) h = Neg(g) y = Softmax(h)"), {"w": W})

    def polygraphy(*arguments):
        command = [sys.executable, "-c", POLYGRAPHY, "run", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    saved = tmp_path / "golden.json"
    done = polygraphy(good, "--onnxrt", "--save-outputs", saved)
    assert done.returncode == 0, done.stdout + done.stderr
    for model, code in ((good, 0), (bad, 1)):
        results = tmp_path / f"{code}.json"
        options = ("--sequential-runners", "--save-accuracy-results", results)
        done = polygraphy(
            model, "--onnxrt", "--load-outputs", saved, "--compare-func-script", script, *options
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert results.is_file()
    assert "argmax_changed" in done.stdout + done.stderr

"""The composition around the timing: what is built and fed, what is left out, the statistics.

ONNX Runtime's target builds, since a real one; only the clock of the GPU is a double.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from calibrators.table import Range, RangeTable
from trtbuild import bench, pipeline, tables
from trtbuild.engine import Engine, open_engine
from trtbuild.errors import BuildError, InputError, MachineError
from trtbuild.model.model import Model
from trtbuild.recipe import Recipe
from trtbuild.render import machine
from trtbuild.targets.base import Algorithm, Built, Layer, Request
from trtbuild.targets.simulation import Simulation
from trtbuild.targets.trt import gpu, profiling, timing
from trtbuild.targets.trt.profiling import Profile
from trtbuild.targets.trt.timing import Timings

BODY = "toy (float[n,4] x) => (float[n,3] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }"
QDQ = """toy (float[n,4] x) => (float[n,3] y) <int8 zero = {0}, float scale = {0.1}> {
    q = QuantizeLinear(x, scale, zero) d = DequantizeLinear(q, scale, zero) y = MatMul(d, w1) }"""
WEIGHTS = {"w1": np.ones((4, 4), np.float32), "w2": np.ones((4, 3), np.float32)}
RECIPE = """
[inputs.x]
min = [1, 4]
opt = [2, 4]
max = [8, 4]
[[pin]]
name = "MatMul_y"
"""
NAMES = ["fp32", "fp16", "int8", "mixed"]
MEDIANS = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0, "mixed": 1.25}


class Clock:
    """In place of the GPU: what it was to time, and made-up times around MEDIANS."""

    def __init__(self) -> None:
        self.called: tuple[list[str], dict[str, Any], int, int] | None = None
        self.refuses: str | None = None

    def __call__(
        self, plans: Mapping[str, Path], feeds: Mapping[str, Any], warmup: int, iterations: int
    ) -> Timings:
        for path in plans.values():
            onnx.checker.check_model(onnx.load(path))
        self.called = (list(plans), dict(feeds), warmup, iterations)
        times = {name: (MEDIANS[name],) * (iterations - 1) + (100.0,) for name in plans}
        return Timings(times, "enqueue" if self.refuses else "graph", self.refuses)


class Stopwatch:
    """In place of TensorRT's profiler: a layer per node of what was built, 2 ms in fp32 and 0.5 in int8, and
    one of its own. As in explicit mode, an engine may have `other` layers than what was built shows."""

    def __init__(self) -> None:
        self.called: list[tuple[str, dict[str, Any], int, int]] = []
        self.other: tuple[Layer, ...] = ()

    def __call__(
        self, name: str, path: Path, feeds: Mapping[str, Any], warmup: int, iterations: int
    ) -> Profile:
        self.called.append((name, dict(feeds), warmup, iterations))
        layers = [str(layer.name) for layer in self.other] or [
            node.name for node in onnx.load(path).graph.node
        ]
        time = {"fp32": 2.0, "int8": 0.5}[name]
        return Profile({**dict.fromkeys(layers, time), "Reformat": 0.25}, self.other)


class Refusing(Simulation):
    """Refuses a default precision, or ignores it, as a builder may; it has no layer for a Flatten."""

    def __init__(self, refused: str = "", ignored: str = "") -> None:
        self.refused, self.ignored = refused, ignored

    def build(self, request: Request, path: Path) -> Built:
        if request.precisions.default == self.refused:
            raise BuildError(f"no {self.refused} here")
        built = super().build(request, path)
        if request.precisions.default == self.ignored:
            computing = (layer for layer in built.layers if layer.type != "Flatten")
            layers = tuple(replace(layer, precision="fp32") for layer in computing)
            return replace(built, layers=layers)
        return built


class Calibrating(Simulation):
    """Finds the ranges itself while it builds, as TensorRT's calibrators do."""

    def __init__(self) -> None:
        self.calibrations = 0

    def identity(self, recipe: Recipe) -> dict[str, Any]:
        return {"target": self.name, "tensorrt": "8.5.1.7"}

    def algorithm(self, recipe: Recipe) -> Algorithm | None:
        return "entropy"

    def build(self, request: Request, path: Path) -> Built:
        if request.precisions.default != "int8" or request.table is not None:
            return super().build(request, path)
        assert request.calibration is not None
        self.calibrations += 1
        found = RangeTable({name: Range(1.0, "entropy") for name in self.ranges(request.model)}, None, 3)
        return replace(super().build(replace(request, table=found), path), table=found)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time_plans", made)
    return made


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    made = Stopwatch()
    monkeypatch.setattr(profiling, "profile_plan", made)
    return made


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> Callable[[Simulation], None]:
    """Have bench build with a target."""

    def use(made: Simulation) -> None:
        monkeypatch.setattr(bench, "choose", lambda name, mode: made)

    use(Simulation())
    return use


@pytest.fixture
def engine(write_toy: Callable[..., Path], target: object) -> Callable[..., Engine]:
    """An engine folder with three samples, or with a model that brings its own Q/DQ."""

    def make(body: str = BODY, recipe: str = RECIPE) -> Engine:
        folder = write_toy(body, WEIGHTS).parent
        (folder / "shards").mkdir()
        np.savez(folder / "shards" / "0.npz", x=np.arange(12, dtype=np.float32).reshape(3, 4))
        (folder / "recipe.toml").write_text(recipe)
        return open_engine(str(folder))

    return make


def test_four_engines_side_by_side(engine: Callable[..., Engine], clock: Clock) -> None:
    found = bench.bench(engine(), iterations=10, warmup=3)
    assert clock.called is not None
    names, feeds, warmup, iterations = clock.called
    assert (names, warmup, iterations) == (NAMES, 3, 10)
    assert np.array_equal(feeds["x"], np.arange(8, dtype=np.float32).reshape(2, 4))
    assert {name: timed.speedup for name, timed in found.engines.items()} == {
        "fp32": 1.0,
        "fp16": 2.0,
        "int8": 4.0,
        "mixed": 3.2,
    }
    assert found.engines["mixed"].figures == bench.Figures(1.25, 100.0, (9 * 1.25 + 100) / 10, 2 / 1.25e-3)
    assert {name: timed.layers for name, timed in found.engines.items()} == {
        "fp32": {"fp32": 3},
        "fp16": {"fp16": 3},
        "int8": {"fp32": 1, "int8": 2},
        "mixed": {"fp32": 2, "int8": 1},
    }
    assert {name: (timed.lowered, timed.meant) for name, timed in found.engines.items()} == {
        "fp32": (0, 0),
        "fp16": (3, 3),
        "int8": (2, 2),
        "mixed": (1, 1),
    }
    assert all(timed.engine_bytes > 100 and timed.lost_pins == 0 for timed in found.engines.values())
    assert (found.method, found.not_captured, found.not_built) == ("graph", None, {})


def test_the_document(engine: Callable[..., Engine], clock: Clock) -> None:
    clock.refuses = "TensorRT does not run engine fp16"
    made = engine()
    document = json.loads(json.dumps(bench.bench(made, iterations=1).to_dict(), allow_nan=False))
    assert document["engine"] == made.name
    assert document["target"]["target"] == "onnxruntime"
    assert document["shapes"] == {"x": [2, 4]}
    assert document["inputs"] == f"samples of {made.shards}"
    assert (document["iterations"], document["warmup"]) == (1, bench.WARMUP)
    assert (document["method"], document["not_captured"]) == ("enqueue", clock.refuses)
    assert document["engines"]["int8"]["figures"]["p99_ms"] == 100
    assert "device time" in document["timed"]


def test_layers_of_two_engines(engine: Callable[..., Engine], clock: Clock, stopwatch: Stopwatch) -> None:
    found = bench.bench(engine(), iterations=4, warmup=2, layers=True)
    assert [name for name, *_ in stopwatch.called] == ["fp32", "int8"]
    for _, feeds, warmup, iterations in stopwatch.called:
        assert (feeds["x"].shape, warmup, iterations) == ((2, 4), 2, 4)
    assert found.layers is not None
    nodes = {name: {"fp32": 2.0, "int8": 0.5} for name in ("MatMul_h", "Relu_r", "MatMul_y")}
    assert found.layers.nodes == nodes, "a pin (MatMul_y) does not count: both engines have none"
    assert found.layers.total["fp32"] == 6.25
    assert found.layers.other["int8"] > 0.25, "Q/DQ too"


def test_layers_that_only_the_engine_shows(
    engine: Callable[..., Engine], clock: Clock, stopwatch: Stopwatch
) -> None:
    """In explicit mode what was built shows the layers of the network."""
    stopwatch.other = (
        Layer("h + r", "", ("MatMul_h", "Relu_r"), "fp32"),
        Layer("y2", "", ("MatMul_y",), "fp32"),
    )
    found = bench.bench(engine(), iterations=1, layers=True).layers
    assert found is not None
    assert found.nodes["MatMul_h"] == found.nodes["MatMul_y"] == {"fp32": 2.0, "int8": 0.5}
    assert found.nodes["Relu_r"] == {"fp32": 0.0, "int8": 0.0}
    assert found.other == {"fp32": 0.25, "int8": 0.25}


def test_the_document_of_layers(engine: Callable[..., Engine], clock: Clock, stopwatch: Stopwatch) -> None:
    made = engine()
    plain = bench.bench(made, iterations=1).to_dict()
    assert (plain["layers"], stopwatch.called) == (None, [])
    document = json.loads(json.dumps(bench.bench(made, iterations=1, layers=True).to_dict()))
    assert document["model"] == Model.open(made.model).sha256
    assert set(document["layers"]) == {"nodes", "other", "total", "method"}
    assert document["layers"]["method"] == "IProfiler, sum of layers"
    assert document["layers"]["nodes"]["MatMul_h"] == {"fp32": 2.0, "int8": 0.5}


def test_what_saves_most_is_printed_first(
    engine: Callable[..., Engine], clock: Clock, stopwatch: Stopwatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = bench.bench(engine(), iterations=1, layers=True).to_dict()
    document["target"] |= {"gpu": "a GPU", "tensorrt": "10.3.0"}
    document["layers"]["nodes"] = {f"n{i}": {"fp32": 0.1 * i, "int8": 0.0} for i in range(1, 13)}
    capsys.readouterr()
    machine.bench(document)
    words = capsys.readouterr().out.split()
    assert [word for word in words if word in document["layers"]["nodes"]] == [
        f"n{i}" for i in range(12, 2, -1)
    ]


@pytest.mark.parametrize(
    ("body", "refusing", "words"),
    [(BODY, Refusing(refused="fp32"), "no fp32 here"), (QDQ, Simulation(), "brings its own Q/DQ")],
)
def test_layers_want_fp32(
    engine: Callable[..., Engine],
    clock: Clock,
    stopwatch: Stopwatch,
    target: Any,
    body: str,
    refusing: Simulation,
    words: str,
) -> None:
    made = engine(body, RECIPE.partition("[[pin]]")[0])
    target(refusing)
    with pytest.raises((BuildError, InputError), match=words):
        bench.bench(made, layers=True)
    assert clock.called is None
    assert "fp16" in bench.bench(engine(), layers=False).engines


def test_layers_do_not_want_fp16(
    engine: Callable[..., Engine], clock: Clock, stopwatch: Stopwatch, target: Any
) -> None:
    made = engine()
    target(Refusing(refused="fp16"))
    assert bench.bench(made, iterations=1, layers=True).not_built == {"fp16": "no fp16 here"}


def test_another_batch(engine: Callable[..., Engine], clock: Clock) -> None:
    found = bench.bench(engine(), batch=8, iterations=3)
    assert clock.called is not None
    assert clock.called[1]["x"].shape == (8, 4)
    assert found.engines["fp32"].figures.samples_per_second == 8 / 4e-3


@pytest.mark.parametrize("options", [{"batch": 9}, {"iterations": 0}, {"warmup": -1}])
def test_bad_options_are_told_before_the_work(
    engine: Callable[..., Engine], clock: Clock, capsys: pytest.CaptureFixture[str], options: dict[str, int]
) -> None:
    with pytest.raises(InputError, match=r"batch of 9|expected at least"):
        bench.bench(engine(), **options)
    assert clock.called is None
    assert "building" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("refusing", "why"),
    [
        (Refusing(refused="fp32"), {"fp32": "no fp32 here"}),
        (Refusing(refused="fp16"), {"fp16": "no fp16 here"}),
        (Refusing(ignored="fp16"), {"fp16": "none of the 3 nodes meant for a lower precision has it"}),
    ],
    ids=["fp32 refused", "fp16 refused", "fp16 ignored"],
)
def test_a_reference_that_cannot_be_built_is_left_out(
    engine: Callable[..., Engine], clock: Clock, target: Any, refusing: Simulation, why: dict[str, str]
) -> None:
    made = engine()
    target(refusing)
    found = bench.bench(made, iterations=2)
    assert found.not_built == why
    assert list(found.engines) == [name for name in NAMES if name not in why]
    assert clock.called is not None
    assert clock.called[0] == list(found.engines)
    assert (found.engines["int8"].speedup is None) == ("fp32" in why)


def test_what_has_no_layer_is_not_lowered(engine: Callable[..., Engine], clock: Clock, target: Any) -> None:
    body = "toy (float[n,4] x) => (float[n,3] y) { h = MatMul(x, w1) f = Flatten(h) y = MatMul(f, w2) }"
    made = engine(body)
    target(Refusing(ignored="fp16"))
    assert bench.bench(made, iterations=1).not_built == {
        "fp16": "none of the 2 nodes meant for a lower precision has it"
    }


@pytest.mark.parametrize("refusing", [Refusing(refused="int8"), Refusing(ignored="int8")])
def test_int8_that_cannot_be_built_fails(
    engine: Callable[..., Engine], clock: Clock, target: Any, refusing: Simulation
) -> None:
    made = engine()
    target(refusing)
    with pytest.raises(BuildError, match=r"no int8 here|none of the 2 nodes"):
        bench.bench(made)
    assert clock.called is None


def test_a_model_that_int8_does_not_change(engine: Callable[..., Engine], clock: Clock) -> None:
    """Else FP32 is timed under the name of INT8."""
    made = engine(
        "toy (float[n,4] x) => (float[n,4] y) { h = Relu(x) y = Tanh(h) }", RECIPE.partition("[[pin]]")[0]
    )
    with pytest.raises(InputError, match="default is int8, but no node"):
        bench.bench(made)


def test_ranges_are_calibrated_once(
    engine: Callable[..., Engine], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, honest = [], tables.calibration.calibrate

    def count(*arguments: Any) -> RangeTable:
        calls.append(arguments)
        return honest(*arguments)

    monkeypatch.setattr(tables.calibration, "calibrate", count)
    made = engine()
    bare = open_engine(str(made.model), ("inputs.x={min=[1,4],opt=[2,4],max=[8,4]}",), calib=made.shards)
    assert list(bench.bench(bare, iterations=1).engines) == NAMES
    assert len(calls) == 1


def test_tensorrt_calibrates_once(engine: Callable[..., Engine], clock: Clock, target: Any) -> None:
    made, calibrating = engine(), Calibrating()
    target(calibrating)
    assert list(bench.bench(made, iterations=1).engines) == NAMES
    assert calibrating.calibrations == 1


def test_without_shards_zeros_are_fed(engine: Callable[..., Engine], clock: Clock) -> None:
    made = engine()
    _, path = pipeline.calibrate(made, Simulation())
    assert path is not None
    (made.folder / "shards" / "0.npz").unlink()
    (made.folder / "shards").rmdir()
    found = bench.bench(replace(made, ranges=path), iterations=1)
    assert found.inputs == "zeros: there are no shards"
    assert clock.called is not None
    assert clock.called[1]["x"].shape == (2, 4)


def test_a_model_with_its_own_qdq(engine: Callable[..., Engine], clock: Clock) -> None:
    found = bench.bench(engine(QDQ, RECIPE.partition("[[pin]]")[0]), iterations=1)
    assert list(found.engines) == ["int8", "mixed"]
    assert set(found.not_built) == {"fp32", "fp16"}
    assert "brings its own Q/DQ" in found.not_built["fp32"]


def test_nothing_is_left_behind(
    engine: Callable[..., Engine], clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    bench.bench(engine(), iterations=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "percent", "wanted"),
    [
        (range(1, 101), 99, 99),
        (range(1, 101), 100, 100),
        (range(1, 102), 99, 100),
        (range(1, 101), 0.5, 1),
        (range(1, 101), 0, 1),
        ([3, 1, 2], 50, 2),
        ([7], 99, 7),
    ],
)
def test_percentile(values: Any, percent: float, wanted: float) -> None:
    assert bench.percentile(list(reversed(values)), percent) == wanted


def test_figures() -> None:
    found = bench.figures_of([2.0, 1.0, 9.0, 4.0], samples=6)
    assert found == bench.Figures(median_ms=3.0, p99_ms=9.0, mean_ms=4.0, samples_per_second=2000.0)


def test_an_engine_faster_than_the_clock() -> None:
    assert bench.figures_of([0.0, 0.0], samples=1).samples_per_second == 2e6


def test_this_machine_says_what_it_lacks(
    engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = engine()
    monkeypatch.undo()
    if gpu.gpu_name() is not None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(MachineError, match=r"needs the package tensorrt|no NVIDIA GPU"):
        bench.bench(made)

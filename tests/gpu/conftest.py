"""What the GPU tests need: a GPU, TensorRT with a builder, and small engine folders to build from.

Elsewhere they are skipped with the reason; TRTBUILD_GPU=required makes that a failure (scripts/test-gpu).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest
from numpy.typing import NDArray

from trtbuild import pipeline, tables
from trtbuild.engine import Engine, open_engine
from trtbuild.errors import MachineError
from trtbuild.profiles import profiles_of
from trtbuild.targets.audit import Audit, audit
from trtbuild.targets.base import Request
from trtbuild.targets.choose import by_name
from trtbuild.targets.tensorrt_implicit import TensorRTImplicit
from trtbuild.targets.trt import binding as trt_binding
from trtbuild.targets.trt.binding import Binding
from trtbuild.targets.trt.compile import open_builder
from trtbuild.targets.trt.gpu import require_gpu
from trtbuild.targets.trt.log import open_log

OPSET = 17  # the last that TensorRT 8 reads
MODELS = {
    # TensorRT takes what it has measured to be fastest: 5 and 10 GFLOP at OPT, so that it is int8 even on a
    # large GPU, although x must be converted
    "conv": (
        "(float[n,64,64,64] x) => (float[n,8] y) { c1 = Conv<pads = [1,1,1,1]>(x, w1, b1) r1 = Relu(c1)"
        "c2 = Conv<pads = [1,1,1,1]>(r1, w2) r2 = Relu(c2) g = GlobalAveragePool(r2) f = Flatten(g)"
        "y = MatMul(f, w3) }",
        {"w1": (128, 64, 3, 3), "b1": (128,), "w2": (128, 128, 3, 3), "w3": (128, 8)},
        {"x": (64, 64, 64)},
    ),
    "two-inputs": (
        "(float[n,64,64,64] x, float[n,64,64,64] z) => (float[n,128,64,64] y) {"
        "a = Conv<pads = [1,1,1,1]>(x, w1) b = Conv<pads = [1,1,1,1]>(z, w2) s = Add(a, b) y = Relu(s) }",
        {"w1": (128, 64, 3, 3), "w2": (128, 64, 3, 3)},
        {"x": (64, 64, 64), "z": (64, 64, 64)},
    ),
    "any-width": (
        "(float[n,32,16,w] x) => (float[n,8] y) { c = Conv<pads = [1,1,1,1]>(x, w1) r = Relu(c)"
        "g = GlobalAveragePool(r) f = Flatten(g) y = MatMul(f, w2) }",
        {"w1": (64, 32, 3, 3), "w2": (64, 8)},
        {"x": (32, 16, 24)},
    ),
}
"""Name -> ONNX text, shapes of the weights, shape of one sample of each input."""
Make = Callable[..., Engine]
RequestOf = Callable[[Engine], Request]
Build = Callable[[Engine], tuple[Path, Request, Audit]]


def _lack() -> str | None:
    try:
        require_gpu()
        binding = trt_binding.load(trt_binding.TENSORRT)
        open_builder(binding, open_log(binding))
    except MachineError as error:
        return str(error).partition("; ")[0]
    return None


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    """A GPU, and TensorRT with a builder."""
    lack = _lack()
    if lack and os.environ.get("TRTBUILD_GPU") == "required":
        pytest.fail(lack)
    if lack:
        pytest.skip(lack)


@pytest.fixture(scope="session", autouse=True)
def timing_cache(gpu: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's cache folder, in which the tests share a timing cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def binding() -> Binding:
    return trt_binding.load(trt_binding.TENSORRT)


@pytest.fixture
def implicit(binding: Binding) -> TensorRTImplicit:
    """The target whose TensorRT finds ranges and precisions itself: skipped from TensorRT 11 on."""
    if not trt_binding.has_calibrators(binding):
        pytest.skip(f"TensorRT {binding.__version__} has no calibrators")
    return TensorRTImplicit()


@pytest.fixture
def pycuda() -> None:
    """What TensorRT's own calibrators are fed through."""
    pytest.importorskip("pycuda.driver", reason="calibrators need pycuda: pip install 'trtbuild[tensorrt]'")


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write an engine folder around one of MODELS: five shards of different length, seeded; `recipe` is more
    of the recipe's text. Ranges are ours unless `overrides` say otherwise."""
    numbers = itertools.count()

    def write(name: str = "conv", recipe: str = "", overrides: tuple[str, ...] = ()) -> Engine:
        text, weights, samples = MODELS[name]
        folder = tmp_path / str(next(numbers)) / name
        folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        _write_model(folder / "model.onnx", text, weights, rng)
        for place, counts in (("shards", (3, 8, 1, 16, 7)), ("validation", (2, 6))):
            (folder / place).mkdir()
            for index, count in enumerate(counts):
                shapes = {given: (count, *shape) for given, shape in samples.items()}
                arrays: dict[str, Any] = {
                    given: rng.standard_normal(shape).astype(np.float32) for given, shape in shapes.items()
                }
                np.savez(folder / place / f"{index}.npz", **arrays)
        profiles = "".join(
            f"[inputs.{given}]\nmin = {[1, *shape]}\nopt = {[8, *shape]}\nmax = {[16, *shape]}\n"
            for given, shape in samples.items()
        )
        (folder / "recipe.toml").write_text(profiles + recipe)
        return open_engine(str(folder), ("tensorrt.calibrator=ranges", *overrides))

    return write


def _write_model(path: Path, text: str, weights: dict[str, Any], rng: np.random.Generator) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {OPSET}]> toy {text}')
    for name, shape in weights.items():
        array = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, path)


@pytest.fixture
def request_of() -> RequestOf:
    """What `trtbuild build --target tensorrt` would build from an engine."""

    def compose(engine: Engine) -> Request:
        target = by_name("tensorrt", engine.recipe.tensorrt.mode)
        model, precisions = pipeline.pins(engine, target)
        ranges = tables.Ranges(None, None, None)
        if precisions.default == "int8":
            ranges = tables.ranges_of(engine, model, target)
            model = ranges.equalized or model
        profiles = profiles_of(model.inputs, engine.recipe.inputs, None)
        return Request(model, precisions, ranges.table, profiles, engine.recipe, ranges.calibration)

    return compose


@pytest.fixture
def build(tmp_path: Path, request_of: RequestOf) -> Build:
    """Build an engine for target tensorrt, past the store: the plan, what it was built from (with the ranges
    that TensorRT found), and its audit."""
    numbers = itertools.count()

    def run(engine: Engine) -> tuple[Path, Request, Audit]:
        request, plan = request_of(engine), tmp_path / f"{next(numbers)}.plan"
        built = by_name("tensorrt", engine.recipe.tensorrt.mode).build(request, plan)
        audited = audit(request.precisions, built.layers, built.reformats, built.executed)
        return plan, replace(request, table=built.table or request.table), audited

    return run


@pytest.fixture
def samples() -> Callable[..., dict[str, NDArray[Any]]]:
    """The first validation shard of an engine, or the one of that number."""

    def read(engine: Engine, number: int = 0) -> dict[str, NDArray[Any]]:
        with np.load(engine.require_samples() / f"{number}.npz") as arrays:
            return dict(arrays)

    return read


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where results are kept: $OUT, or a temporary folder."""
    return Path(os.environ.get("OUT") or tmp_path)

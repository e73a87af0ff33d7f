"""Every ONNX model that ships inside an installed package: rewritten, run in ONNX Runtime, built."""

from __future__ import annotations

import hashlib
import importlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from calibrators.shards import ShardSet
from calibrators.table import RangeTable
from tests.real_models import MODELS, every_model, image_size
from trtbuild.calibrate import calibrate
from trtbuild.errors import MachineError
from trtbuild.model import files
from trtbuild.model.model import Model
from trtbuild.precision import rules
from trtbuild.precision.map import PrecisionMap
from trtbuild.profiles import profiles_of
from trtbuild.recipe import CalibrationSection, Pin, Recipe, parse
from trtbuild.rewrite.cut import with_outputs
from trtbuild.rewrite.explicit import explicit
from trtbuild.targets.audit import audit
from trtbuild.targets.base import Request
from trtbuild.targets.choose import by_name
from trtbuild.targets.session import Tensors, infer, runner
from trtbuild.targets.trt.typed import layers_of

SAMPLES = 3
SMALL = ("ch_ppocr_mobile_v2.0_cls_infer.onnx", "models/ppocrv5/cls/cls.onnx")


@cache
def opened(path: Path) -> Model:
    return Model.open(path)


@cache
def samples(path: Path) -> Tensors:
    """Seeded random inputs, SAMPLES of them along axis 0."""
    rng = np.random.default_rng(0)
    (spec,) = opened(path).inputs
    if np.issubdtype(spec.dtype, np.integer):
        return {spec.name: rng.integers(0, 257, (SAMPLES, *spec.shape[1:])).astype(spec.dtype)}
    shape = (
        SAMPLES,
        3,
        *(fixed or free for fixed, free in zip(spec.shape[2:], image_size(path), strict=True)),
    )
    return {spec.name: rng.uniform(-1, 1, shape).astype(spec.dtype)}


@cache
def ranges(path: Path, folder: Path) -> RangeTable:
    folder.mkdir()
    np.savez(folder / "samples.npz", **samples(path))
    shards = ShardSet.open(folder, opened(path).inputs)
    table = calibrate(opened(path), shards, CalibrationSection(method="minmax"), SAMPLES)
    assert table.samples == SAMPLES
    return table


@pytest.fixture
def table(path: Path, tmp_path_factory: pytest.TempPathFactory) -> RangeTable:
    """Calibrated once for each model."""
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    return ranges(path, tmp_path_factory.getbasetemp() / name)


def recipe_of(default: str, fallback: str = "fp32") -> Recipe:
    return parse(
        {
            "precision": {"default": default, "fallback": fallback},
            "tensorrt-rtx": {"compute_capabilities": ["8.9"]},
        },
        "test",
    )


def resolved(path: Path, recipe: Recipe, *pins: str) -> PrecisionMap:
    return rules.resolve(opened(path), recipe.precision, [Pin.parse(pin) for pin in pins])


def run(model: ir.Model, feeds: Tensors, name: str) -> Tensors:
    with runner(model, name) as active:
        return infer(active, feeds, "random samples")


def one(feeds: Tensors) -> Tensors:
    return {name: array[:1] for name, array in feeds.items()}


def bits(array: NDArray[Any]) -> bytes:
    """The array as bytes, every NaN alike."""
    if np.issubdtype(array.dtype, np.floating) and np.isnan(array).any():
        array = np.where(np.isnan(array), np.asarray(np.nan, array.dtype), array)
    return array.tobytes()


@every_model
def test_all_pinned_is_the_original_bit_for_bit(path: Path) -> None:
    model = opened(path)
    precisions = resolved(path, recipe_of("int8"), "re:.*")
    assert precisions.pinned
    assert {node.precision for node in precisions.nodes.values()} == {"fp32"}
    outputs = [str(value.name) for value in model.graph.outputs]
    tensors = list(dict.fromkeys([*outputs, *model.compared]))
    assert len(model.compared) > 20
    assert set(outputs) <= set(model.checked_outputs)
    candidate = explicit(model, precisions, None, "simulated")
    golden = run(with_outputs(files.read(path), tensors), one(samples(path)), "golden")
    pinned = run(with_outputs(candidate, tensors), one(samples(path)), "all pinned")
    assert list(golden) == list(pinned) == tensors
    different = [
        name
        for name in tensors
        if golden[name].shape != pinned[name].shape or bits(golden[name]) != bits(pinned[name])
    ]
    assert different == []


CONFIGURATIONS = [("int8", "fp32"), ("fp16", "fp32"), ("int8", "fp16")]
COMPUTED_IN_FLOAT = {"Pow"}  # the parser puts casts to float32 around it
every_configuration = pytest.mark.parametrize(("default", "fallback"), CONFIGURATIONS)


@every_model
@every_configuration
def test_lowered_it_passes_the_checker_and_runs(
    path: Path, default: str, fallback: str, table: RangeTable, tmp_path: Path
) -> None:
    precisions = resolved(path, recipe_of(default, fallback))
    model = explicit(opened(path), precisions, table, "simulated")
    files.save(model, tmp_path / "explicit.onnx")
    onnx.checker.check_model(str(tmp_path / "explicit.onnx"))
    golden = run(files.read(path), samples(path), "golden")
    lowered = run(files.read(tmp_path / "explicit.onnx"), samples(path), "lowered")
    assert list(lowered) == list(golden)
    for name, array in lowered.items():
        assert array.shape == golden[name].shape
        assert array.dtype == golden[name].dtype
        assert np.isfinite(array).all(), name
    assert any(not np.array_equal(lowered[name], golden[name]) for name in golden), "nothing was lowered"


def rtx() -> Any:
    try:
        by_name("tensorrt-rtx").require()
    except MachineError as error:
        pytest.skip(str(error))
    return importlib.import_module("tensorrt_rtx")


@every_model
@every_configuration
def test_tensorrt_rtx_parses_what_was_asked(
    path: Path, default: str, fallback: str, table: RangeTable, tmp_path: Path
) -> None:
    """In a strongly typed network: every node in its precision, every pin held, nothing left in float."""
    trt = rtx()
    precisions = resolved(path, recipe_of(default, fallback), "last:2", "first:1")
    model = explicit(opened(path), precisions, table, "typed")
    files.save(model, tmp_path / "explicit.onnx")
    onnx.checker.check_model(str(tmp_path / "explicit.onnx"))
    log = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(log).create_network(0)
    parser = trt.OnnxParser(network, log)
    assert parser.parse_from_file(str(tmp_path / "explicit.onnx")), parser.get_error(0).desc()
    layers = layers_of(trt, network, model.graph)
    audited = audit(precisions, layers)
    assert audited.lost == ()
    assert {precisions.nodes[name].op_type for name in audited.unlowered} <= COMPUTED_IN_FLOAT
    assert audited.held == len(precisions.pinned) == 3
    int8 = {node for layer in layers if layer.precision == "int8" for node in layer.nodes}
    assert int8 == {name for name, node in precisions.nodes.items() if node.precision == "int8"}
    half = {node for layer in layers if layer.precision == "fp16" for node in layer.nodes}
    meant = {name: node.op_type for name, node in precisions.nodes.items() if node.precision == "fp16"}
    assert half <= meant.keys()
    assert {meant[name] for name in meant.keys() - half} <= COMPUTED_IN_FLOAT


@every_model
def test_tensorrt_rtx_builds_it_in_int8(path: Path, table: RangeTable, tmp_path: Path) -> None:
    rtx()
    check_build(path, recipe_of("int8"), table, tmp_path)


@pytest.mark.parametrize("path", [p for p in MODELS if p.id.endswith(SMALL) or p.values[0] is None])
@pytest.mark.parametrize(("default", "fallback"), CONFIGURATIONS[1:])
def test_tensorrt_rtx_builds_small_models_in_fp16(
    path: Path, default: str, fallback: str, table: RangeTable, tmp_path: Path
) -> None:
    rtx()
    check_build(path, recipe_of(default, fallback), table, tmp_path)


def check_build(path: Path, recipe: Recipe, table: RangeTable, folder: Path) -> None:
    """Pin a little, build, and hold the build against the pins."""
    np.savez(folder / "samples.npz", **samples(path))
    shards = ShardSet.open(folder, opened(path).inputs)
    precisions = resolved(path, recipe, "last:2", "first:1")
    profiles = profiles_of(opened(path).inputs, recipe.inputs, shards)
    target = by_name("tensorrt-rtx")
    request = Request(opened(path), precisions, table, profiles, recipe)
    built = target.build(request, folder / target.artifact)
    assert (folder / target.artifact).stat().st_size > 10_000
    audited = audit(precisions, built.layers)
    assert (audited.held, audited.lost) == (3, ())
    assert {precisions.nodes[name].op_type for name in audited.unlowered} <= COMPUTED_IN_FLOAT

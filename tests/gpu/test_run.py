"""Engines that really run: they compute what ONNX Runtime computes, at every shape of their profile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trtbuild import pipeline, validation
from trtbuild.engine import open_engine as open_folder
from trtbuild.errors import InputError, MachineError
from trtbuild.golden.metrics import Comparison
from trtbuild.targets.base import Request
from trtbuild.targets.choose import by_name
from trtbuild.targets.session import infer
from trtbuild.targets.sides import as_given
from trtbuild.targets.trt.binding import Binding
from trtbuild.targets.trt.running import open_engine

pytestmark = pytest.mark.gpu

MAGIC, VERSIONS = slice(0, 4), slice(4, 12)
"""Where a plan's first bytes say that it is one, and of which serializations: TensorRT 8 looks for the magic
tag, then for two versions."""


def difference(request: Request, feeds: dict[str, Any], side: Any) -> Any:
    """Of all outputs together, between ONNX Runtime and `side`."""
    outputs = side.outputs
    comparison = Comparison()
    with as_given(request.model).shipped(outputs) as golden, side.shipped(outputs) as candidate:
        wanted, found = infer(golden, feeds, "samples"), infer(candidate, feeds, "samples")
        assert list(found) == list(wanted)
        for name in outputs:
            comparison.update(wanted[name], found[name])
    return comparison.result()


@pytest.mark.parametrize(("default", "decibels"), [("fp32", 60), ("fp16", 40), ("int8", 20)])
def test_close_to_onnxruntime(make: Any, build: Any, samples: Any, default: str, decibels: float) -> None:
    engine = make(overrides=(f"precision.default={default}", "tensorrt.tf32=false"))
    plan, request, _ = build(engine)
    found = difference(request, samples(engine), by_name("tensorrt").candidate(request, plan))
    assert found.sqnr_db > decibels
    assert found.nonfinite_candidate == 0


@pytest.mark.parametrize("batch", [1, 5, 16])
@pytest.mark.parametrize("width", [8, 24, 40])
def test_dynamic_shapes(make: Any, build: Any, batch: int, width: int) -> None:
    """Another width than that of the samples, which lies between."""
    profile = "inputs.x={min=[1,32,16,8],opt=[8,32,16,24],max=[16,32,16,40]}"
    engine = make("any-width", overrides=(profile, "precision.default=fp32", "tensorrt.tf32=false"))
    plan, request, _ = build(engine)
    x = np.random.default_rng(batch + width).standard_normal((batch, 32, 16, width)).astype(np.float32)
    found = difference(request, {"x": x}, by_name("tensorrt").candidate(request, plan))
    assert found.sqnr_db > 60


def test_a_shape_outside_the_profile(make: Any, build: Any) -> None:
    plan, request, _ = build(make(overrides=("precision.default=fp32",)))
    x = np.zeros((17, 64, 64, 64), np.float32)
    with pytest.raises(InputError, match="outside of the engine's profile"):
        difference(request, {"x": x}, by_name("tensorrt").candidate(request, plan))


@pytest.mark.parametrize(
    ("name", "needs"),
    [("filetype", ("magika",)), ("ocr-rec", ("rapidocr_onnxruntime", "PIL", "font_roboto"))],
)
def test_the_golden_of_a_real_model(prepare: Any, request_of: Any, name: str, needs: tuple[str, ...]) -> None:
    """FP32 without TF32, against the same model file in ONNX Runtime."""
    engine = open_folder(
        str(prepare(name, "--validation", "16", needs=needs)), ("precision.default=fp32", "pin=[]")
    )
    request = request_of(engine)
    with np.load(sorted(engine.require_samples().glob("*.npz"))[0]) as arrays:
        feeds = {given: array[:4] for given, array in arrays.items()}
    found = difference(request, feeds, by_name("tensorrt").golden(request, None))
    assert found.sqnr_db > 50
    assert found.cosine > 0.9999


@pytest.mark.parametrize("where", [MAGIC, VERSIONS], ids=["no plan", "another version"])
def test_a_plan_that_is_not_for_this_tensorrt(make: Any, build: Any, binding: Binding, where: slice) -> None:
    plan, _, _ = build(make(overrides=("precision.default=fp32",)))
    changed = bytearray(plan.read_bytes())
    changed[where] = bytes(byte ^ 0xFF for byte in changed[where])
    with (
        pytest.raises(InputError, match="does not load this engine"),
        open_engine(binding, bytes(changed), "old"),
    ):
        pass


def test_a_truncated_plan(make: Any, build: Any, binding: Binding) -> None:
    plan, _, _ = build(make(overrides=("precision.default=fp32",)))
    half = plan.read_bytes()[: plan.stat().st_size // 2]
    with pytest.raises((InputError, MachineError), match="load"), open_engine(binding, half, "half"):
        pass


def test_a_damaged_engine_is_never_loaded(make: Any) -> None:
    engine = make(overrides=("precision.default=fp32",))
    built = pipeline.build(engine, "tensorrt")
    content = bytearray(built.artifact.read_bytes())
    content[len(content) // 2] ^= 0xFF
    built.artifact.write_bytes(content)
    with pytest.raises(InputError, match="SHA-256 differs"):
        validation.validate(engine, built)

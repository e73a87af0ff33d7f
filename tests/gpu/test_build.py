"""Engines that TensorRT really builds: the precisions that it shows are those that were asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtbuild import pipeline
from trtbuild.errors import LostPinError
from trtbuild.targets.tensorrt_implicit import TensorRTImplicit
from trtbuild.targets.trt import making
from trtbuild.targets.trt.binding import Binding
from trtbuild.targets.trt.flags import set_flags

pytestmark = pytest.mark.gpu

PIN = '[[pin]]\nname = "Conv_c2"\n'
NO_TF32 = ("tensorrt.tf32=false",)
"""Makes float32 so slow that int8 wins wherever TensorRT may choose."""


def executed(audited: Any) -> set[str]:
    return set(audited.histogram) - {"unknown"}


@pytest.mark.parametrize(
    ("default", "fallback", "wanted"),
    [
        ("fp32", "fp32", {"fp32"}),
        ("fp16", "fp32", {"fp16"}),
        ("int8", "fp32", {"int8"}),
        ("int8", "fp16", {"int8"}),
    ],
)
def test_precisions(make: Any, build: Any, default: str, fallback: str, wanted: set[str]) -> None:
    overrides = (f"precision.default={default}", f"precision.fallback={fallback}")
    plan, _, audited = build(make(overrides=overrides))
    assert plan.stat().st_size > 0
    assert wanted <= executed(audited)
    assert "int8" not in executed(audited) or default == "int8"
    assert "fp16" not in executed(audited) or "fp16" in (default, fallback)


@pytest.mark.parametrize("calibrator", ["entropy", "minmax"])
@pytest.mark.usefixtures("implicit", "pycuda")
def test_tensorrt_finds_the_ranges(make: Any, build: Any, calibrator: str) -> None:
    _, request, audited = build(make(overrides=(f"tensorrt.calibrator={calibrator}",)))
    assert request.calibration.algorithm == calibrator
    assert {"x", "r1", "r2"} <= set(request.table.ranges)
    assert all(entry.amax > 0 for entry in request.table.ranges.values())
    assert "int8" in executed(audited)


@pytest.mark.usefixtures("pycuda")
def test_minmax_of_tensorrt_and_ours(implicit: TensorRTImplicit, make: Any, build: Any) -> None:
    """Both take the largest magnitude of all samples."""
    engine = make(overrides=("tensorrt.calibrator=minmax",))
    _, request, _ = build(engine)
    ours, _ = pipeline.calibrate(engine, implicit)
    for tensor in ("x", "r1", "r2"):
        assert request.table.ranges[tensor].amax == pytest.approx(ours.ranges[tensor].amax, rel=0.02)


@pytest.mark.parametrize("fallback", ["fp32", "fp16"])
def test_pins_hold(make: Any, build: Any, fallback: str) -> None:
    _, request, audited = build(make(recipe=PIN, overrides=(f"precision.fallback={fallback}",)))
    assert request.precisions.pinned == ["Conv_c2"]
    assert (audited.held, audited.lost) == (1, ())
    (pin,) = audited.pins
    assert {layer.precision for layer in pin.layers} == {"fp32"}
    assert executed(audited) & ({"int8"} if fallback == "fp32" else {"int8", "fp16"})


@pytest.fixture
def without_constraints(monkeypatch: pytest.MonkeyPatch) -> None:
    """A builder that is told of the pins, but not to obey them."""

    def unpinned(binding: Any, config: Any, flags: Any, section: Any, pinned: bool) -> None:
        set_flags(binding, config, flags, section, False)

    monkeypatch.setattr(making, "set_flags", unpinned)


def test_a_lost_pin_is_found(
    implicit: TensorRTImplicit, make: Any, build: Any, without_constraints: None
) -> None:
    _, _, audited = build(make(recipe=PIN, overrides=NO_TF32))
    assert [pin.node for pin in audited.lost] == ["Conv_c2"]
    assert audited.lost[0].found == "int8"


def test_a_lost_pin_fails_the_build(implicit: TensorRTImplicit, make: Any, without_constraints: None) -> None:
    engine = make(recipe=PIN, overrides=NO_TF32)
    with pytest.raises(LostPinError, match=r"Conv_c2 \(asked fp32, found int8\)"):
        pipeline.build(engine, "tensorrt")
    assert not list((engine.folder / "builds").glob("*/manifest.json"))


def test_two_inputs(make: Any, build: Any) -> None:
    _, request, audited = build(make("two-inputs"))
    assert {"x", "z"} <= set(request.table.ranges)
    assert "int8" in executed(audited)


@pytest.mark.usefixtures("implicit", "pycuda")
def test_two_inputs_through_a_calibrator(make: Any, build: Any) -> None:
    _, request, audited = build(make("two-inputs", overrides=("tensorrt.calibrator=minmax",)))
    largest = dict.fromkeys(("x", "z"), 0.0)
    for shard in request.calibration.shards.files:
        with np.load(shard) as arrays:
            largest = {name: max(found, float(np.abs(arrays[name]).max())) for name, found in largest.items()}
    for name, found in largest.items():  # each from its own samples
        assert request.table.ranges[name].amax == pytest.approx(found, rel=0.02)
    assert "int8" in executed(audited)


def test_the_timing_cache_is_used_again(make: Any, build: Any, tmp_path: Path, capfd: Any) -> None:
    engine = make(overrides=(f"tensorrt.timing_cache={tmp_path / 'timing'}",))
    build(engine)
    (file,) = (tmp_path / "timing").iterdir()
    size = file.stat().st_size
    build(engine)
    assert file.stat().st_size == size > 0, "the second build measured again"
    assert "discarded" not in capfd.readouterr().err


def test_a_damaged_timing_cache_is_discarded(make: Any, build: Any, tmp_path: Path, capfd: Any) -> None:
    engine = make(overrides=(f"tensorrt.timing_cache={tmp_path / 'timing'}",))
    build(engine)
    (file,) = (tmp_path / "timing").iterdir()
    file.write_bytes(b"damaged" * 100)
    _, _, audited = build(engine)
    assert "int8" in executed(audited)
    assert "discarded" in capfd.readouterr().err
    assert not file.read_bytes().startswith(b"damaged")


def test_two_builds_in_one_process_are_the_same(make: Any, build: Any, binding: Binding) -> None:
    engine = make(recipe=PIN)
    first, second = build(engine)[2], build(engine)[2]
    assert first.histogram == second.histogram
    assert first.pins == second.pins

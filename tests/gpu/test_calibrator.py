"""Calibration inside TensorRT: whole, told when it fails, and alone with its CUDA context."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrators.cache import cache_header
from calibrators.errors import CalibratorError
from trtbuild import pipeline
from trtbuild.targets.trt.binding import Binding
from trtbuild.targets.trt.running import open_engine

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("implicit", "pycuda")]
ENTROPY = ("tensorrt.calibrator=entropy",)


def test_a_cache_goes_round(make: Any, build: Any, binding: Binding, tmp_path: Path) -> None:
    """TensorRT's ranges, written as its cache and given back, build int8 layers without a calibration.

    Perhaps more of them: TensorRT's calibration leaves constants without a range.
    """
    engine = make(overrides=ENTROPY)
    _, calibrated, first = build(engine)
    cache = tmp_path / "calibration.cache"
    cache.write_text(calibrated.table.to_tensorrt_cache(cache_header(binding.__version__)))
    _, given, second = build(replace(engine, ranges=cache))
    assert given.calibration is None
    for name, entry in calibrated.table.ranges.items():
        assert given.table.ranges[name].amax == entry.amax
    assert second.histogram["int8"] >= first.histogram["int8"] > 0


def test_a_bad_shard_stops_the_build_and_is_named(make: Any, build: Any) -> None:
    engine = make(overrides=ENTROPY)
    bad = engine.shards / "3.npz"
    with np.load(bad) as arrays:
        x = arrays["x"]
    x[5, 0, 0, 0] = np.nan
    np.savez(bad, x=x)
    with pytest.raises(CalibratorError, match=r"3\.npz: input 'x' has 1 NaN"):
        build(engine)
    np.savez(bad, x=np.nan_to_num(x))
    assert "int8" in build(engine)[2].histogram, "the next build in this process must work"


def test_nothing_is_stored_after_a_failure(make: Any) -> None:
    engine = make(overrides=ENTROPY)
    np.savez(engine.shards / "9.npz", x=np.full((1, 64, 64, 64), np.inf, np.float32))
    with pytest.raises(CalibratorError, match=r"9\.npz"):
        pipeline.build(engine, "tensorrt")
    builds = engine.folder / "builds"
    assert not builds.exists() or not [path for path in builds.rglob("*") if path.is_file()]


def current_context() -> int | None:
    context = ctypes.c_void_p()
    assert ctypes.CDLL("libcuda.so.1").cuCtxGetCurrent(ctypes.byref(context)) == 0
    return context.value


def test_others_keep_their_context_and_their_memory(
    make: Any, build: Any, samples: Any, binding: Binding
) -> None:
    """Polygraphy's memory lives in the primary context, before, while and after TensorRT calibrates."""
    from polygraphy import cuda

    values = np.arange(1000, dtype=np.uint8)
    with cuda.DeviceArray.raw((1000,)) as memory:
        memory.copy_from(values)
        before = current_context()
        engine = make(overrides=ENTROPY)
        plan, _, _ = build(engine)
        assert current_context() == before
        back = np.zeros_like(values)
        memory.copy_to(back)
        assert np.array_equal(back, values)
        with open_engine(binding, plan.read_bytes(), "candidate") as active:
            assert active.infer(samples(engine))["y"].shape == (2, 8)
    assert "pycuda.autoinit" not in sys.modules


def test_control_c_while_calibrating(make: Any) -> None:
    engine = make(overrides=ENTROPY)
    command = [
        sys.executable,
        "-m",
        "trtbuild",
        "build",
        str(engine.folder),
        "--target",
        "tensorrt",
        "--set",
        *ENTROPY,
    ]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "TensorRT calibrates" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
        assert process.wait(timeout=300) == 130, rest
    assert not list((engine.folder / "builds").glob("*/manifest.json"))

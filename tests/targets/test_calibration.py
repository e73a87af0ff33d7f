"""TensorRT finds the ranges itself, fed from shards; whatever goes wrong in there comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrators.errors import CalibratorError, ShardError
from calibrators.serve import ShardCalibrator
from calibrators.shards import ShardSet
from calibrators.table import RangeTable, TableKey
from trtbuild.progress import STOP
from trtbuild.recipe import InputSection
from trtbuild.targets.base import Algorithm, Calibration, Request
from trtbuild.targets.trt import binding, making

Requests = Callable[..., Request]
KEY = TableKey("model", "shards", "method")
X = np.random.default_rng(0).standard_normal((7, 3, 8, 8)).astype(np.float32)


@pytest.fixture(params=["8.5.1.7", "10.3.0"])
def double(request: pytest.FixtureRequest, tensorrt: Callable[..., Any]) -> Any:
    return tensorrt(request.param)


@pytest.fixture
def calibrated(request_of: Requests, tmp_path: Path) -> Callable[..., Request]:
    """A request that leaves the ranges of `dynamic` (OPT batch 2) to TensorRT, over shards of `samples`."""

    def make(samples: np.ndarray = X, algorithm: Algorithm = "entropy", **options: Any) -> Request:
        request = request_of("dynamic", implicit=True, **options)
        folder = tmp_path / "shards"
        folder.mkdir()
        for start in range(0, len(samples), 3):
            np.save(folder / f"{start}.npy", samples[start : start + 3])
        shards = ShardSet.open(folder, request.model.inputs)
        return replace(request, table=None, calibration=Calibration(algorithm, shards, KEY))

    return make


@pytest.mark.parametrize("algorithm", ["entropy", "minmax"])
def test_every_sample_reaches_tensorrt_and_its_ranges_come_back(
    double: Any, algorithm: Algorithm, calibrated: Callable[..., Request], capsys: pytest.CaptureFixture[str]
) -> None:
    made = making.make(double, calibrated(algorithm=algorithm))
    seen = np.concatenate([batch["x"] for batch in double._behaviour.batches])
    np.testing.assert_array_equal(seen, np.concatenate([X, X[:1]]))  # the last batch: one sample again
    assert isinstance(made.table, RangeTable)
    assert (made.table.key, made.table.samples) == (KEY, 7)
    assert {"x", "c", "r", "g", "f", "y"} <= set(made.table.ranges)
    assert {entry.method for entry in made.table.ranges.values()} == {f"tensorrt-{algorithm}"}
    assert made.without_range == ()
    assert "7 samples in batches of 2, 1 of them twice to fill up the last" in capsys.readouterr().err


def test_its_ranges_make_the_same_engine_without_a_calibrator(
    double: Any, calibrated: Callable[..., Request]
) -> None:
    request = calibrated()
    made = making.make(double, request)
    served = len(double._behaviour.batches)
    again = making.make(double, replace(request, table=made.table))
    assert len(double._behaviour.batches) == served
    assert again.without_range == ()
    assert again.plan == made.plan


def test_a_failure_while_tensorrt_is_fed_names_the_shard(
    double: Any, calibrated: Callable[..., Request], tmp_path: Path
) -> None:
    """TensorRT prints it, takes it for the end of the samples, and builds an engine from the rest."""
    samples = X.copy()
    samples[4, 0, 0, 0] = np.nan
    with pytest.raises(ShardError, match=r"3.npy: input 'x' has 1 NaN"):
        making.make(double, calibrated(samples))


def test_a_shard_that_vanishes(double: Any, calibrated: Callable[..., Request], tmp_path: Path) -> None:
    request = calibrated()
    (tmp_path / "shards" / "6.npy").unlink()
    with pytest.raises(ShardError, match=r"6\.npy cannot be read"):
        making.make(double, request)


def test_the_cause_goes_before_what_tensorrt_says_of_it(
    tensorrt: Callable[..., Any], calibrated: Callable[..., Request], tmp_path: Path
) -> None:
    """No batch at all: TensorRT has no scales and builds nothing, but that is not the reason."""
    double = tensorrt("10.3.0")
    request = calibrated()
    (tmp_path / "shards" / "0.npy").unlink()
    with pytest.raises(ShardError, match=r"0\.npy cannot be read"):
        making.make(double, request)


def test_samples_of_another_size_than_opt_are_refused_before_the_build(
    double: Any, calibrated: Callable[..., Request]
) -> None:
    profiles = {"x": InputSection(min=(1, 3, 4, 8), opt=(2, 3, 10, 8), max=(4, 3, 16, 8))}
    with pytest.raises(ShardError, match=r"0.npy: its samples of 'x' are \(3, 8, 8\), not \(3, 10, 8\)"):
        making.make(double, calibrated(profiles=profiles))
    assert double._behaviour.batches == []


def test_fewer_batches_than_there_are(
    double: Any, calibrated: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A binding that stops asking: nothing was raised, and still not all samples were seen."""
    serve = ShardCalibrator.get_batch
    left = iter(range(2))

    def stops(self: ShardCalibrator, names: list[str]) -> list[int] | None:
        return serve(self, names) if next(left, None) is not None else None

    monkeypatch.setattr(ShardCalibrator, "get_batch", stops)
    with pytest.raises(CalibratorError, match="took 2 of 4 calibration batches; the first sample"):
        making.make(double, calibrated())


def test_control_c_while_tensorrt_is_fed(double: Any, calibrated: Callable[..., Request]) -> None:
    request = calibrated()
    STOP.set()
    try:
        with pytest.raises(KeyboardInterrupt):
            making.make(double, request)
    finally:
        STOP.clear()
    assert len(double._behaviour.batches) <= 1


def test_the_double_is_what_is_loaded(double: Any) -> None:
    assert binding.load("tensorrt") is double

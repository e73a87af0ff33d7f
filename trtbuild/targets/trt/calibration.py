"""The build in which TensorRT itself finds the ranges: a calibrator fed from the shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from calibrators.table import RangeTable
from calibrators.tensorrt import shard_calibrator
from trtbuild.errors import TrtbuildError
from trtbuild.progress import STOP, Phases, say
from trtbuild.targets.base import Calibration
from trtbuild.targets.trt.binding import Binding
from trtbuild.targets.trt.compile import build_plan
from trtbuild.targets.trt.log import Log

if TYPE_CHECKING:
    import tensorrt as trt

READ_AS = {"INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}
"""What a calibrator reads an input as; every other type as float32, whatever the network declares."""


def calibrate_and_build(
    binding: Binding,
    builder: trt.Builder,
    network: trt.INetworkDefinition,
    config: trt.IBuilderConfig,
    profile: trt.IOptimizationProfile,
    calibration: Calibration,
    log: Log,
    phases: Phases,
) -> tuple[bytes, RangeTable]:
    """The plan, and the ranges that TensorRT found for it.

    Raises CalibratorError, naming the shard, for whatever went wrong while TensorRT was fed (TensorRT
    itself takes an error for the end of the samples); otherwise as `build_plan` does.
    """
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    opt = {tensor.name: tuple(profile.get_shape(tensor.name)[1][:]) for tensor in inputs}
    dtypes: dict[str, np.dtype[Any]] = {
        tensor.name: np.dtype(READ_AS.get(tensor.dtype.name, np.float32)) for tensor in inputs
    }
    shards = calibration.shards
    phase = "calibrating, samples"
    phases.start(phase, shards.samples)

    def progress(done: int) -> None:
        phases.step(phase, done)
        if STOP.is_set():
            raise KeyboardInterrupt  # which the calibrator keeps: TensorRT would swallow it

    with shard_calibrator(
        binding, calibration.algorithm, shards, opt, dtypes, progress=progress
    ) as calibrator:
        feed = calibrator.feed
        again = f", {feed.repeated} of them twice to fill up the last" if feed.repeated else ""
        say(f"TensorRT calibrates on {feed.samples} samples in batches of {feed.batch}{again}")
        config.int8_calibrator = calibrator  # type: ignore[assignment]  # its base is known at run time only
        config.set_calibration_profile(profile)
        try:
            plan = build_plan(builder, network, config, log)
        except TrtbuildError:
            if calibrator.error is not None:
                raise calibrator.error from None  # what TensorRT said is but what came of it
            raise
        calibrator.check()
        phases.finish(phase)
        return plan, calibrator.table(calibration.key)

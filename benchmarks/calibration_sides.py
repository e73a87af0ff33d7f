"""The sides of benchmarks.calibration; run as a program it is one of them in a process of its own.

python -m benchmarks.calibration_sides trtbuild|onnxruntime MODEL SHARDS SAMPLES BATCH
"""

from __future__ import annotations

import functools
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.process_memory import peak_mb
from calibrators.shards import ShardSet
from calibrators.table import RangeTable
from trtbuild.calibrate import calibrate
from trtbuild.model.model import Model
from trtbuild.recipe import CalibrationSection

INPUT = "x"


def plain_passes(model: Path, shards: Path, count: int, batch: int, threads: int) -> Callable[[], None]:
    """Reading the samples and running them in ONNX Runtime as it comes, nothing exposed."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def run() -> None:
        for x in batches(shards, count, batch):
            session.run(None, {INPUT: x})

    return run


def calibration(model: Path, shards: Path, count: int, batch: int) -> Callable[[], RangeTable]:
    """trtbuild's `calibrate`, entropy, from the first shard to the table; the model is open already."""
    opened = Model.open(model)
    section = CalibrationSection(method="entropy")

    def run() -> RangeTable:
        given = ShardSet.open(shards, opened.inputs)
        files = given.shards[: -(-count // given.shards[0].samples)]
        return calibrate(opened, ShardSet(files, given.inputs, given.batched, None), section, batch)

    return run


def onnxruntime_entropy(model: Path, shards: Path, count: int) -> None:
    """ONNX Runtime's EntropyCalibrater over what Conv and MatMul read and write, one sample at a time."""
    from onnxruntime.quantization.calibrate import (
        CalibrationDataReader,
        CalibrationMethod,
        create_calibrator,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._samples = batches(shards, count, 1)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            x = next(self._samples, None)
            return None if x is None else {INPUT: x}

    with tempfile.TemporaryDirectory() as folder:
        calibrator = create_calibrator(
            model,
            ["Conv", "MatMul"],
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.Entropy,
        )
        calibrator.collect_data(Reader())
        calibrator.compute_data()


def modelopt(python: str, model: Path, shards: Path, count: int) -> dict[str, Any]:
    """ModelOpt's entropy calibration, run by another interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.npy"
        np.save(samples, np.concatenate(list(batches(shards, count, count))))
        script = Path(__file__).with_name("rival_modelopt.py")
        done = subprocess.run(
            [python, script, model, samples], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def batches(shards: Path, count: int, size: int) -> Iterator[NDArray[Any]]:
    """The first `count` samples, `size` at a time."""
    samples = islice(
        chain.from_iterable(np.load(path)[INPUT] for path in sorted(shards.glob("*.npz"))), count
    )
    while taken := list(islice(samples, size)):
        yield np.stack(taken)


def main() -> None:
    side, model, shards, count, batch = sys.argv[1:]
    if side == "trtbuild":
        run: Callable[[], object] = calibration(Path(model), Path(shards), int(count), int(batch))
        calibration(Path(model), Path(shards), 1, int(batch))()  # modules loaded, code compiled
    else:
        run = functools.partial(onnxruntime_entropy, Path(model), Path(shards), int(count))
        importlib.import_module("onnxruntime.quantization.calibrate")
    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    print(json.dumps({"samples": int(count), "seconds": seconds, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()

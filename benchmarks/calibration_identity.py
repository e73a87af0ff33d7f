"""Whether ranges depend on what they must not depend on: order, batch size, workers, a crash.

python -m benchmarks.calibration_identity MODEL SHARDS FOLDER      # calibrates until it is killed
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from calibrators import entropy, minmax
from calibrators.histogram import Histogram
from calibrators.shards import ShardSet
from tests.unit.calibrators import literal_entropy
from trtbuild.collect import checkpoint
from trtbuild.collect.collect import ON_THIS_MACHINE, Options, collect
from trtbuild.collect.forward import activations
from trtbuild.model.model import Model
from trtbuild.rewrite.explicit import ranges_needed

BATCH, SEED, SAMPLES = 8, 5, 64


def measure(model: Path, shards: Path, folder: Path) -> dict[str, Any]:
    """Whether each way of counting gives the histograms of the first: a batch of 8, in order, one process.

    Equal histograms give equal ranges by every method.
    """
    opened = Model.open(model)
    first = some(shards, folder / "first", range(SAMPLES))
    shuffled = some(shards, folder / "shuffled", np.random.default_rng(SEED).permutation(SAMPLES))
    reference = counted(opened, first, BATCH)
    same = {
        "shuffled": counted(opened, shuffled, BATCH) == reference,
        **{f"batch {size}": counted(opened, first, size) == reference for size in (1, 32)},
        **{
            f"{workers} workers": counted(opened, first, BATCH, Options(workers=workers)) == reference
            for workers in (2, 4)
        },
        "killed and resumed": killed_and_resumed(opened, first, folder / "partial") == reference,
    }
    return {"samples": SAMPLES, "same_table": same, **batch_sizes(opened, first)}


def counted(
    model: Model, shards: Path, batch: int, options: Options = ON_THIS_MACHINE, kept: Path | None = None
) -> str:
    """A digest of the histograms of all calibrated tensors."""
    given = ShardSet.open(shards, model.inputs)
    histograms = collect(model, given, ranges_needed(model), batch, replace(options, checkpoints=kept))
    return digest(histograms)


def digest(histograms: dict[str, Histogram]) -> str:
    found = hashlib.sha256()
    for tensor, histogram in sorted(histograms.items()):
        found.update(tensor.encode())
        for name, array in sorted(histogram.to_arrays().items()):
            found.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def some(shards: Path, folder: Path, order: Any) -> Path:
    """The samples of that order, in shards of 16."""
    samples = np.concatenate([np.load(path)["x"] for path in sorted(shards.glob("*.npz"))])[np.asarray(order)]
    folder.mkdir()
    for index, part in enumerate(np.split(samples, range(16, len(samples), 16))):
        np.savez(folder / f"{index:04}.npz", x=part)
    return folder


def killed_and_resumed(model: Model, shards: Path, kept: Path) -> str:
    """Kill -9 a calibration once it has kept something, then go on from that."""
    command = [sys.executable, "-m", "benchmarks.calibration_identity", model.path, shards, kept]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not list(kept.glob("[!.]*.npz")) and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            raise RuntimeError("the calibration was through before it could be killed")
    resumed = counted(model, shards, BATCH, kept=kept)
    shutil.rmtree(kept)
    return resumed


def batch_sizes(model: Model, shards: Path) -> dict[str, Any]:
    """How far the model's own floats differ by batch size; and that the same floats, counted in other
    batches, give the same histograms."""
    given = ShardSet.open(shards, model.inputs)
    tensors = ranges_needed(model)
    by_size: dict[int, list[dict[str, Any]]] = {
        size: [values for _, values in activations(model, given.of_one(given.shards[0]), tensors, size)]
        for size in (1, BATCH)
    }
    one, eight = (
        {tensor: np.concatenate([values[tensor] for values in by_size[size]]) for tensor in tensors}
        for size in by_size
    )
    differing = {tensor for tensor in tensors if not np.array_equal(one[tensor], eight[tensor])}
    differences = (np.abs(one[name] - eight[name]).max() / np.abs(one[name]).max() for name in differing)
    whole, parts = {}, {}
    for tensor in tensors:
        whole[tensor], parts[tensor] = Histogram(), Histogram()
        whole[tensor].update(eight[tensor])
        for sample in eight[tensor][::-1]:
            parts[tensor].update(sample)
    return {
        "differing_tensors": len(differing),
        "largest_difference_to_amax": float(max(differences, default=0)),
        "same_floats_same_histograms": digest(whole) == digest(parts),
    }


def heavy_tail() -> dict[str, float]:
    """A ReLU of a Gaussian with one outlier of 60: entropy clips it, min-max does not."""
    x = np.maximum(np.random.default_rng(0).standard_normal(1_000_000), 0).astype(np.float32)
    x[123] = 60.0
    histogram = Histogram()
    histogram.update(x)
    return {
        "minmax": minmax.amax(histogram),
        "entropy": entropy.amax(histogram),
        "entropy, literal reference": literal_entropy.amax(x),
    }


def main() -> None:
    model, shards, kept = map(Path, sys.argv[1:])
    checkpoint.SECONDS = 0.0
    print(json.dumps(counted(Model.open(model), shards, BATCH, kept=kept)))


if __name__ == "__main__":
    main()

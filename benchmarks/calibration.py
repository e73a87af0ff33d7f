"""Calibration on ocr-rec: time, memory, and the same table to the bit, both sides in one run.

    python -m benchmarks.calibration [--samples 64 --samples 512] [--rivals 16 --rivals 64]
                                     [--modelopt PYTHON] [--rounds 3] [--json]

Run engines/ocr-rec/prepare.py first. Times are those of whole calls: trtbuild's `calibrate` (entropy:
sessions, passes, counting, threshold search) against plain passes of ONNX Runtime's default session over the
same samples, batch of 8, and against the entropy calibrators of ONNX Runtime and, where an interpreter that
has it is named, of NVIDIA ModelOpt. With --json one document on stdout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import calibration_identity, calibration_sides
from benchmarks.lines import ENGINE, render
from trtbuild.progress import say

SCHEMA_VERSION = 1
BATCH, THREADS, SEED = 8, 2, 99


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, action="append", help="repeatable; default: 64 and 512")
    parser.add_argument("--rivals", type=int, action="append", help="samples for the rivals; default: 16, 64")
    parser.add_argument("--modelopt", metavar="PYTHON", help="interpreter that has nvidia-modelopt[onnx]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not (ENGINE / "model.onnx").is_file():
        print(
            f"error: {ENGINE}/model.onnx is not there; run python {ENGINE}/prepare.py first", file=sys.stderr
        )
        return 2
    counts = sorted(arguments.samples or [64, 512])
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        render(shards, max(counts), SEED)
        document = {
            "schema_version": SCHEMA_VERSION,
            "benchmark": "calibration",
            "batch": BATCH,
            "threads": THREADS,
            "against_plain_passes": [against_plain(shards, count, arguments.rounds) for count in counts],
            "memory": memory(shards, counts),
            "rivals": rivals(shards, arguments.rivals or [16, 64], arguments.modelopt),
            "identity": calibration_identity.measure(ENGINE / "model.onnx", shards, Path(folder)),
            "heavy_tail": calibration_identity.heavy_tail(),
        }
    if arguments.json:
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        show(document)
    return 0


def against_plain(shards: Path, count: int, rounds: int) -> dict[str, Any]:
    """Both sides in turns; the ratio of each round, and their median."""
    plain = calibration_sides.plain_passes(ENGINE / "model.onnx", shards, count, BATCH, THREADS)
    ours = calibration_sides.calibration(ENGINE / "model.onnx", shards, count, BATCH)
    plain(), ours()  # caches, compiled code
    times = [(seconds(plain), seconds(ours)) for _ in range(rounds)]
    say(f"{count} samples: plain passes {times[-1][0]:.2f} s, calibration {times[-1][1]:.2f} s")
    return {
        "samples": count,
        "plain_seconds": [a for a, _ in times],
        "calibration_seconds": [b for _, b in times],
        "ratio": statistics.median(b / a for a, b in times),
    }


def memory(shards: Path, counts: list[int]) -> dict[str, Any]:
    """Peak memory of a process that calibrates on so many samples, MB."""
    peaks = {str(count): child("trtbuild", shards, count)["peak_mb"] for count in counts}
    return {"peak_mb": peaks, "ratio": peaks[str(counts[-1])] / peaks[str(counts[0])]}


def rivals(shards: Path, counts: list[int], modelopt: str | None) -> list[dict[str, Any]]:
    """Each calibrator in a process of its own, one after the other: seconds of calibrating, with modules
    loaded, and peak memory."""
    found = []
    for count in counts:
        sides = {name: child(name, shards, count) for name in ("trtbuild", "onnxruntime")}
        if modelopt:
            sides["modelopt"] = calibration_sides.modelopt(modelopt, ENGINE / "model.onnx", shards, count)
        ours = sides["trtbuild"]["seconds"]
        ratios = {name: side["seconds"] / ours for name, side in sides.items() if name != "trtbuild"}
        found.append({"samples": count, "sides": sides, "times_slower": ratios})
        say(
            f"{count} samples: "
            + ", ".join(f"{name} {side['seconds']:.2f} s" for name, side in sides.items())
        )
    return found


def child(side: str, shards: Path, count: int) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.calibration_sides",
        side,
        str(ENGINE / "model.onnx"),
        str(shards),
    ]
    done = subprocess.run([*command, str(count), str(BATCH)], stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))  # rivals print as they go


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def show(document: dict[str, Any]) -> None:
    for found in document["against_plain_passes"]:
        print(f"entropy over {found['samples']} samples: {found['ratio']:.2f} times the plain passes")
    peaks = ", ".join(
        f"{count} samples {peak:.0f} MB" for count, peak in document["memory"]["peak_mb"].items()
    )
    print(f"peak memory: {peaks}; ratio {document['memory']['ratio']:.3f}")
    for found in document["rivals"]:
        for name, side in found["sides"].items():
            slower = found["times_slower"].get(name, 1.0)
            took = f"{side['seconds']:.2f} s, {slower:.1f} times trtbuild's"
            print(f"{found['samples']} samples, {name}: {took}; {side['peak_mb']:.0f} MB")
    for name, same in document["identity"]["same_table"].items():
        print(f"same table to the bit, {name}: {'yes' if same else 'NO'}")
    identity = document["identity"]
    differing, by = identity["differing_tensors"], identity["largest_difference_to_amax"]
    print(f"the model's own floats differ by batch size in {differing} tensors, by at most {by:.1e} of amax")
    print(f"same floats in other batches, same histograms: {identity['same_floats_same_histograms']}")
    tail = document["heavy_tail"]
    print("heavy tail: " + ", ".join(f"{name} {value:.4g}" for name, value in tail.items()))


if __name__ == "__main__":
    sys.exit(main())

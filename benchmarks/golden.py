"""The golden check's layer diff on ocr-rec: time, memory, and Polygraphy on the same tensors, in one run.

    python -m benchmarks.golden [--samples 32] [--memory 16 --memory 128] [--polygraphy 4] [--rounds 5]
                                [--json]

Run engines/ocr-rec/prepare.py first. One side is the float model, the other the int8 model that the recipe
with its pins makes. A diff is the whole call (`diff_layers`: sessions, runs, all metrics); beside it, in
turns, the two plain runs with all the same outputs, whose results nobody looks at. `stored`: the diff where
the golden's activations are kept on disk, the first time and the second. Polygraphy's L2, cosine, PSNR and
SNR are timed on the same arrays, without any runs. With --json one document on stdout.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import golden_metrics
from benchmarks.process_memory import peak_mb
from calibrators.shards import ShardSet
from trtbuild.collect.counting import cores
from trtbuild.engine import open_engine
from trtbuild.golden.activations import Activations, RecalledSide
from trtbuild.golden.groups import groups_of
from trtbuild.golden.layers import diff_layers
from trtbuild.model import files
from trtbuild.model.model import Model
from trtbuild.pipeline import build
from trtbuild.progress import say
from trtbuild.targets.base import Side
from trtbuild.targets.session import infer
from trtbuild.targets.sides import OnnxRuntimeSide, as_given

SCHEMA_VERSION = 1
ENGINE = Path("engines/ocr-rec")
GIGABYTE = 10**9


class Case:
    """Both sides, and the samples."""

    def __init__(self, candidate: Path, count: int) -> None:
        self.model = Model.open(ENGINE / "model.onnx")
        self.golden: Side = as_given(self.model)
        self.candidate: Side = OnnxRuntimeSide("candidate", files.read(candidate))
        self.shards = ShardSet.open(ENGINE / "validation", self.model.inputs)
        self.count = count

    def plain(self) -> None:
        """Both sides' runs, all tensors shown; each sample's are let go of at once."""
        for side in (self.golden, self.candidate):
            with side.showing(self.model.compared) as active:
                for batch in self.shards.batches(1, self.count):
                    infer(active, batch.feeds, batch.label)

    def diff(self, store: Activations | None = None) -> None:
        golden = RecalledSide(self.golden, store) if store else self.golden
        sides = (golden, self.candidate)
        groups = groups_of(self.model, self.model.compared, sides, self.shards, GIGABYTE)
        with contextlib.redirect_stderr(io.StringIO()):
            diff_layers(golden, self.candidate, groups, self.shards, self.count)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=32, help="of the timed diff")
    parser.add_argument("--memory", type=int, action="append", help="repeatable; default: 16 and 128 samples")
    parser.add_argument("--polygraphy", type=int, default=4, help="rounds of its metrics; each takes seconds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        candidate, count = arguments.child
        Case(Path(candidate), int(count)).diff()
        print(peak_mb())
        return 0
    if not (ENGINE / "model.onnx").is_file():
        print(
            f"error: {ENGINE}/model.onnx is not there; run python {ENGINE}/prepare.py first", file=sys.stderr
        )
        return 2
    with tempfile.TemporaryDirectory() as folder:
        candidate = build(
            open_engine(str(ENGINE), ("tuned=false",)), "onnxruntime", Path(folder) / "int8.onnx"
        ).artifact
        case = Case(candidate, arguments.samples)
        document = {
            "schema_version": SCHEMA_VERSION,
            "benchmark": "golden",
            "tensors": len(case.model.compared),
            "cores": cores(),
            "against_plain_runs": against_plain(case, arguments.rounds),
            "stored": stored(case, Path(folder), arguments.rounds),
            "against_polygraphy": against_polygraphy(case, arguments.polygraphy),
            "memory": memory(candidate, sorted(arguments.memory or [16, 128])),
        }
    if arguments.json:
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        show(document)
    return 0


def against_plain(case: Case, rounds: int) -> dict[str, Any]:
    """Both in turns; the ratio of each round, and their median."""
    case.plain(), case.diff()  # caches, compiled code
    times = [(seconds(case.plain), seconds(case.diff)) for _ in range(rounds)]
    say(f"{case.count} samples: plain runs {times[-1][0]:.2f} s, diff {times[-1][1]:.2f} s")
    ratios = [ours / plain for plain, ours in times]
    return {
        "samples": case.count,
        "plain_seconds": [plain for plain, _ in times],
        "diff_seconds": [ours for _, ours in times],
        "ratios": ratios,
        "ratio": statistics.median(ratios),
    }


def stored(case: Case, folder: Path, rounds: int) -> dict[str, Any]:
    """The diff that keeps the golden's activations, and the one that reads them."""
    times: dict[str, list[float]] = {"first": [], "second": []}
    for number in range(rounds):
        place = folder / str(number)
        for found in times.values():
            found.append(seconds(functools.partial(case.diff, Activations(place, {}, 100 * GIGABYTE))))
        shutil.rmtree(place)
    say(f"golden activations stored: {times['first'][-1]:.2f} s, read: {times['second'][-1]:.2f} s")
    return {f"{name} check": found for name, found in times.items()}


def against_polygraphy(case: Case, rounds: int) -> dict[str, Any]:
    (batch,) = case.shards.batches(1, 1)
    sides = []
    for side in (case.golden, case.candidate):
        with side.showing(case.model.compared) as active:
            sides.append(infer(active, batch.feeds, batch.label))
    return golden_metrics.measure(sides[0], sides[1], rounds, cores())


def memory(candidate: Path, counts: list[int]) -> dict[str, Any]:
    """Peak memory of a process that diffs so many samples, MB."""
    peaks = {}
    for count in counts:
        command = [sys.executable, "-m", "benchmarks.golden", "--child", candidate, str(count)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        peaks[str(count)] = float(done.stdout)
    return {"peak_mb": peaks, "ratio": peaks[str(counts[-1])] / peaks[str(counts[0])]}


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def show(document: dict[str, Any]) -> None:
    plain, rival = document["against_plain_runs"], document["against_polygraphy"]
    ratios = ", ".join(f"{ratio:.2f}" for ratio in plain["ratios"])
    what = f"diff of {document['tensors']} tensors over {plain['samples']} samples"
    print(f"{what}: {plain['ratio']:.2f} times the two plain runs ({ratios})")
    took = {"not kept": plain["diff_seconds"], **document["stored"]}
    medians = ", ".join(f"{name} {statistics.median(found):.2f} s" for name, found in took.items())
    print(f"the same, golden activations on disk: {medians}")
    ours, theirs = rival["fused_seconds"], rival["polygraphy_seconds"]
    times, whole = rival["polygraphy_over_fused"], rival["polygraphy_comparator_seconds"]
    rivals = f"Polygraphy's functors {theirs:.2f} s ({times:.1f} times), in its Comparator {whole:.2f} s"
    print(f"metrics of one sample: {ours:.3f} s, {rivals}")
    peaks = ", ".join(f"{n} samples {peak:.0f} MB" for n, peak in document["memory"]["peak_mb"].items())
    print(f"peak memory: {peaks}; ratio {document['memory']['ratio']:.3f}")


if __name__ == "__main__":
    sys.exit(main())

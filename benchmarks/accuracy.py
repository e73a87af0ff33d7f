"""Exact match on ocr-rec after INT8 by several tools: the same new lines, the same simulator, one run.

    python -m benchmarks.accuracy [--samples 1000] [--modelopt PYTHON] [--json]

Run engines/ocr-rec/prepare.py first. All calibrate on the engine's shards (64 lines) and quantize Conv and
MatMul: ONNX Runtime's quantize_static (min-max, percentile 99.99), where an interpreter that has it is named
NVIDIA ModelOpt (max, entropy), and trtbuild, also tuned: `trtbuild tune` without the recipe's pins. The
rivals get the model in opset 18 and through ONNX Runtime's own pre-processing: as it is, its weights are
Constant nodes, and both make it answer nothing but blanks. What they write is run in ONNX Runtime with
optimisations off, on lines that none of them has seen (another seed). `drop` is what the mean lost against
FP32, with its 95 % confidence interval over the same lines. With --json one document on stdout.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lines import ENGINE, render
from calibrators.shards import ShardSet
from trtbuild import tuning
from trtbuild.engine import open_engine
from trtbuild.functions import from_file
from trtbuild.golden.scores import Paired
from trtbuild.model import files
from trtbuild.model.model import Model
from trtbuild.pipeline import build
from trtbuild.progress import track
from trtbuild.targets.session import infer, runner
from trtbuild.targets.simulation import Simulation
from trtbuild.tune.document import best_of
from trtbuild.tune.options import Options

SCHEMA_VERSION = 1
SEED, BATCH = 4242, 8
AS_WRITTEN = ("tuned=false",)
UNPINNED = (*AS_WRITTEN, "pin=[]")
OURS = {
    "min-max": (*UNPINNED, "calibration.method=minmax"),
    "percentile 99.99": (*UNPINNED, "calibration.method=percentile", "calibration.percentile=99.99"),
    "auto": (*UNPINNED, "calibration.method=auto"),
    "auto, equalized": (*UNPINNED, "calibration.method=auto", "calibration.equalize=0.5"),
    "percentile 99.99, biases corrected": (*UNPINNED, "calibration.bias_correction=true"),
    "percentile 99.99, the recipe's five pins": AS_WRITTEN,
}
"""trtbuild's recipes: overrides of engines/ocr-rec/recipe.toml."""
TUNED = {"tuned": True, "tuned without repairs": False}
"""Whether tune may repair."""
RIVALS = {"max": "ModelOpt, max", "entropy": "ModelOpt, entropy"}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--modelopt", metavar="PYTHON", help="interpreter that has nvidia-modelopt[onnx]")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    model = ENGINE / "model.onnx"
    if not model.is_file():
        print(f"error: {model} is not there; run python {ENGINE}/prepare.py first", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        labels = render(folder / "lines", arguments.samples, SEED)
        judge = Judge(model, folder / "lines", labels)
        golden = judge.scores(model, "FP32")
        rows = [
            row(side, judge.scores(written, side), golden)
            for side, written in quantized(model, folder, arguments.modelopt)
        ]
    document = {
        "schema_version": SCHEMA_VERSION,
        "benchmark": "accuracy",
        "samples": arguments.samples,
        "fp32": float(np.mean(golden)),
        "sides": rows,
    }
    if arguments.json:
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        show(document)
    return 0


class Judge:
    """Scores a model on the lines."""

    def __init__(self, model: Path, shards: Path, labels: dict[str, str]) -> None:
        self._shards = ShardSet.open(shards, Model.open(model).inputs)
        self._labels = labels
        self._exact_match = from_file(ENGINE / "metric.py", "exact_match", "metric")

    def scores(self, model: Path, side: str) -> list[float]:
        """One per line."""
        found = []
        with runner(files.read(model), side) as active:
            batches = track(
                self._shards.batches(BATCH), side, self._shards.samples, lambda batch: len(batch.names)
            )
            for batch in batches:
                (probabilities,) = infer(active, batch.feeds, batch.label).values()
                for index, name in enumerate(batch.names):
                    score, _ = self._exact_match({"y": probabilities[index : index + 1]}, self._labels[name])
                    found.append(score)
        return found


def quantized(model: Path, folder: Path, modelopt: str | None) -> Iterator[tuple[str, Path]]:
    """Each side, and the model that it wrote."""
    prepared = pre_processed(model, folder)
    for method in ("MinMax", "Percentile"):
        path = folder / f"onnxruntime-{method}.onnx"
        onnxruntime_static(prepared, path, method)
        yield f"ONNX Runtime, {method.lower()}", path
    if modelopt:
        samples = folder / "samples.npy"
        np.save(samples, np.concatenate(list(calibration_samples())))
        for method, side in RIVALS.items():
            path = folder / f"modelopt-{method}.onnx"
            script = Path(__file__).with_name("rival_accuracy.py")
            command = [modelopt, script, prepared, samples, method, path]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            yield side, path
    for number, (name, overrides) in enumerate(OURS.items()):
        path = folder / f"trtbuild-{number}.onnx"
        build(open_engine(str(ENGINE), overrides), "onnxruntime", path)
        yield f"trtbuild, {name}", path
    for name, repairs in TUNED.items():
        path = folder / f"trtbuild-tuned-{repairs}.onnx"
        found = tuned(folder / f"engine-{repairs}", repairs, path)
        yield f"trtbuild, {name} ({found})", path


def tuned(engine: Path, repairs: bool, path: Path) -> str:
    """Tune a copy of the engine without its pins, from nothing, on its 400 validation lines, and build what
    was found into `path`; returns what that is."""
    shutil.copytree(ENGINE, engine, ignore=shutil.ignore_patterns("builds", "tuned.toml", "__pycache__"))
    options = Options(repairs=repairs)
    document = tuning.tune(open_engine(str(engine), UNPINNED), Simulation(), options)
    build(open_engine(str(engine), ("pin=[]",)), "onnxruntime", path)
    best = best_of(document)
    return f"{best['label']}, {best['pinned']} pins"


def pre_processed(model: Path, folder: Path) -> Path:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    newer, prepared = folder / "opset18.onnx", folder / "prepared.onnx"
    files.save(Model.open(model).normalised, newer)
    quant_pre_process(newer, prepared, skip_symbolic_shape=True)
    return prepared


def onnxruntime_static(model: Path, path: Path, method: str) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._samples = calibration_samples()

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            x = next(self._samples, None)
            return None if x is None else {"x": x}

    with redirect_stdout(sys.stderr):  # it prints as it goes, and ours may be one JSON document
        quantize_static(
            model,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul"],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
            extra_options={"ActivationSymmetric": True, "CalibPercentile": 99.99},
        )


def calibration_samples() -> Iterator[NDArray[np.float32]]:
    """One line at a time."""
    for path in sorted((ENGINE / "shards").glob("*.npz")):
        for x in np.load(path)["x"]:
            yield x[None]


def row(side: str, scores: list[float], golden: list[float]) -> dict[str, Any]:
    paired = Paired(tuple(golden), tuple(scores))
    low, high = paired.interval or (0.0, 0.0)
    return {
        "side": side,
        "exact_match": float(np.mean(scores)),
        "drop": paired.drop,
        "interval": [low, high],
    }


def show(document: dict[str, Any]) -> None:
    print(f"{'exact match on ' + str(document['samples']) + ' new lines':72}{'':8}{'lost':>9}  95 %")
    print(f"{'FP32':72}{document['fp32']:8.4f}")
    for found in document["sides"]:
        low, high = found["interval"]
        print(f"{found['side']:72}{found['exact_match']:8.4f}{found['drop']:9.4f}  {low:.4f} to {high:.4f}")


if __name__ == "__main__":
    sys.exit(main())

"""Latency of an engine in FP32, FP16, INT8 and mixed, side by side in one process on the GPU of this machine.

    python -m benchmarks.gpu.latency [ENGINE] [--batch 8 --batch 32] [--json]

ENGINE is ocr-rec unless named (run its prepare.py first). For every batch size the engines are built with
that size as OPT. With --json one document on stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

from trtbuild import bench
from trtbuild.engine import Engine, open_engine
from trtbuild.errors import as_trtbuild_error

SCHEMA_VERSION = 1
PAIRS = (("fp32", "mixed"), ("fp32", "int8"), ("fp32", "fp16"), ("mixed", "int8"))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("engine", nargs="?", default="ocr-rec")
    parser.add_argument("--batch", type=int, action="append", help="repeatable; default: 8 and 32")
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        document = measure(arguments.engine, arguments.batch or [8, 32], arguments.iterations)
    except Exception as error:
        known = as_trtbuild_error(error)
        if known is None:
            raise
        print(f"error: {known}", file=sys.stderr)
        return int(known.exit_code)
    if arguments.json:
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        show(document)
    return 0


def measure(reference: str, batches: list[int], iterations: int) -> dict[str, Any]:
    """{"batches": {size: what `trtbuild bench` says, and "ratios"}}."""
    found: dict[str, Any] = {}
    for batch in batches:
        document = bench.bench(at_opt(open_engine(reference), batch), batch, iterations).to_dict()
        document["ratios"] = ratios(document)
        found[str(batch)] = document
    return {"schema_version": SCHEMA_VERSION, "benchmark": "latency", "batches": found}


def at_opt(engine: Engine, batch: int) -> Engine:
    """The engine with `batch` as the OPT size of its profiles."""
    inputs = {
        name: shapes.model_copy(update={"opt": (batch, *shapes.opt[1:])})
        for name, shapes in engine.recipe.inputs.items()
    }
    return replace(engine, recipe=engine.recipe.model_copy(update={"inputs": inputs}))


def ratios(document: dict[str, Any]) -> dict[str, float]:
    """ "a / b": median of a over median of b, of the engines that were built."""
    medians = {name: timed["figures"]["median_ms"] for name, timed in document["engines"].items()}
    return {f"{a} / {b}": medians[a] / medians[b] for a, b in PAIRS if {a, b} <= medians.keys()}


def show(document: dict[str, Any]) -> None:
    for batch, found in document["batches"].items():
        target = found["target"]
        print(f"{found['engine']}, batch {batch}, {target['gpu']}, TensorRT {target['tensorrt']}")
        for name, timed in found["engines"].items():
            figures = timed["figures"]
            print(
                f"  {name:6}{figures['median_ms']:10.4f} ms median{figures['p99_ms']:10.4f} ms p99"
                f"{figures['samples_per_second']:12.0f} samples/s  {timed['layers']}"
            )
        for name, why in found["not_built"].items():
            print(f"  {name:6}not built: {why}")
        print("  " + ", ".join(f"{pair}: {ratio:.2f}" for pair, ratio in found["ratios"].items()))


if __name__ == "__main__":
    sys.exit(main())

"""The sensitivity scan of an engine, and a session rebuilt for each node: time and figures, in one run.

    python -m benchmarks.sensitivity [--engine engines/ocr-rec] [--samples 8] [--rounds 3] [--json]

Run the engine's prepare.py first. Both sides measure the same: every node that has an int8 form alone in
int8, only its activations, only its weights; and all in int8 but this node; by the same samples, as
noise-to-signal ratio and KL divergence. `rebuilt`: each time the explicit model is written, its weights are
folded (else it runs slower), a session is opened on all cores, the samples are run. `scan`: trtbuild's own.
They take turns; the time of each on one sample tells what does not grow with the samples. With --json one
document on stdout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from calibrators.table import RangeTable
from trtbuild.collect.counting import cores
from trtbuild.engine import open_engine
from trtbuild.model.model import Model
from trtbuild.precision.map import PrecisionMap
from trtbuild.precision.rules import resolve
from trtbuild.progress import say
from trtbuild.ranges.error import typical
from trtbuild.ranges.weights import fold_weights
from trtbuild.recipe import PrecisionSection
from trtbuild.rewrite.cut import with_outputs
from trtbuild.rewrite.explicit import explicit
from trtbuild.tables import open_shards, ranges_of
from trtbuild.targets.session import infer, runner
from trtbuild.targets.simulation import Simulation
from trtbuild.tune.flips import Flip
from trtbuild.tune.reference import Reference
from trtbuild.tune.search import SCANNED
from trtbuild.tune.sensitivity import Sensitivity, quantize_one, revert_one, scan

SCHEMA_VERSION = 1
SEED = 0
CLOSE = 1e-3
"""Relative difference below which figures count as the same: sessions of one thread and of two may add up in
another order."""
Figures = dict[tuple[str, str], tuple[float, float | None]]
"""Node, what of it -> noise-to-signal ratio, KL divergence."""


@dataclass
class Case:
    """The engine's model and ranges; no rule of the recipe pins anything."""

    model: Model
    table: RangeTable
    reference: Reference

    def scan(self) -> Sensitivity:
        return scan(self.model, self.table, PrecisionSection(), (), self.reference)


@dataclass
class Rebuilt:
    """The plain way, and how long each of its parts took in all, in seconds."""

    case: Case
    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def scan(self) -> Figures:
        model = self.case.model
        figures: Figures = {}
        in_float = resolve(model, PrecisionSection(default="fp32"), ())
        for flip in quantize_one(model):
            figures[flip.node, str(flip.part)] = self._measure(turned(in_float, flip), flip)
        in_int8 = resolve(model, PrecisionSection(), ())
        for flip in revert_one(model, PrecisionSection(), ()):
            figures[flip.node, "reverted"] = self._measure(turned(in_int8, flip), None)
        return figures

    def _measure(self, precisions: PrecisionMap, flip: Flip | None) -> tuple[float, float | None]:
        reference = self.case.reference
        with self._timed("model written"):
            written = explicit(self.case.model, precisions, self.case.table, "simulated")
            if flip is not None and flip.part != "both":
                leave(written, flip)
        with self._timed("weights folded"):
            fold_weights(written.graph)
        nsr, kl = [], []
        with ExitStack() as stack:
            with self._timed("session opened"):
                shown = with_outputs(written, reference.tensors, cut=True)
                active = stack.enter_context(runner(shown, "rebuilt"))
            for index, feed in enumerate(reference.feeds):
                with self._timed("samples run"):
                    seen = infer(active, feed.feeds, feed.label)
                with self._timed("errors"):
                    nsr.append(reference.nsr(index, seen))
                    kl.append(reference.kl(index, seen))
        known = [value for value in kl if value is not None]
        return typical(nsr), statistics.fmean(known) if known else None

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.spent[part] += time.perf_counter() - started


def turned(precisions: PrecisionMap, flip: Flip) -> PrecisionMap:
    nodes = dict(precisions.nodes)
    for name in flip.nodes:
        other = "fp32" if precisions[name] == "int8" else "int8"
        nodes[name] = replace(nodes[name], precision=other)  # type: ignore[arg-type]
    return replace(precisions, nodes=nodes)


def leave(written: ir.Model, flip: Flip) -> None:
    """Take the Q/DQ off what is not the flip's part: weights, or activations."""
    (node,) = (node for node in written.graph if node.name == flip.node)
    for index, value in enumerate(node.inputs):
        dequantize = value.producer() if value is not None else None
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        quantize = dequantize.inputs[0].producer()  # type: ignore[union-attr]
        before = quantize.inputs[0]  # type: ignore[union-attr]
        if before.is_initializer() != (flip.part == "weights"):  # type: ignore[union-attr]
            node.replace_input_with(index, before)
            written.graph.remove([dequantize, quantize])  # type: ignore[list-item]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", default="engines/ocr-rec")
    parser.add_argument("--samples", type=int, default=SCANNED)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not (Path(arguments.engine) / "model.onnx").is_file():
        print(
            f"error: no model in {arguments.engine}; run python {arguments.engine}/prepare.py first",
            file=sys.stderr,
        )
        return 2
    case = opened(arguments.engine, arguments.samples)
    document = {
        "schema_version": SCHEMA_VERSION,
        "benchmark": "sensitivity",
        "engine": arguments.engine,
        "samples": len(case.reference.feeds),
        "cores": cores(),
        **measured(case, arguments.rounds),
    }
    if arguments.json:
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        show(document)
    return 0 if document["same"] else 1


def opened(name: str, samples: int) -> Case:
    engine = open_engine(name)
    model = Model.open(engine.model)
    table = ranges_of(engine, model, Simulation()).table
    assert table is not None
    validation = open_shards(engine.require_samples(), engine, model)
    shards = validation.drawn(min(samples, validation.samples), SEED)
    return Case(model, table, Reference.of(model, shards, dict.fromkeys(model.checked_outputs, -1)))


def measured(case: Case, rounds: int) -> dict[str, Any]:
    """Both sides in turns, and each on one sample; whether their figures are the same."""
    single = replace(case, reference=case.reference.first(1))
    times: dict[str, list[float]] = {"scan": [], "rebuilt": []}
    spent: dict[str, float] = defaultdict(float)
    one: dict[str, float] = {"scan": seconds(single.scan)[0], "rebuilt": seconds(Rebuilt(single).scan)[0]}
    for _ in range(rounds):
        took, found = seconds(case.scan)
        times["scan"].append(took)
        rebuilt = Rebuilt(case)
        took, expected = seconds(rebuilt.scan)
        times["rebuilt"].append(took)
        for part, took in rebuilt.spent.items():
            spent[part] += took
        say(f"scan {times['scan'][-1]:.1f} s, rebuilt {times['rebuilt'][-1]:.1f} s")
    figures = figures_of(found)
    differences = [difference(figures[key], expected[key]) for key in expected]
    ratios = [plain / ours for ours, plain in zip(times["scan"], times["rebuilt"], strict=True)]
    return {
        "models": len(expected),
        "scan_seconds": times["scan"],
        "rebuilt_seconds": times["rebuilt"],
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "one_sample_seconds": one,
        "rebuilt_parts_seconds": {part: total / rounds for part, total in spent.items()},
        "same": figures.keys() == expected.keys() and max(differences) <= CLOSE,
        "to_the_bit": sum(not found for found in differences),
        "largest_difference": max(differences),
        "agreement": found.agreement,
    }


def figures_of(found: Sensitivity) -> Figures:
    figures: Figures = {("", "reverted"): (found.all.nsr, found.all.kl)}
    for node in found.nodes:
        parts = {
            "both": node.alone,
            "activations": node.activations,
            "weights": node.weights,
            "reverted": node.reverted,
        }
        figures |= {
            (node.node, part): (measure.nsr, measure.kl)
            for part, measure in parts.items()
            if measure is not None
        }
    return figures


def difference(one: tuple[float, float | None], other: tuple[float, float | None]) -> float:
    """The larger of the two figures' relative differences."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    return max(abs(a - b) / max(abs(a), abs(b), 1e-12) for a, b in pairs)


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def show(document: dict[str, Any]) -> None:
    samples, models = document["samples"], document["models"]
    print(f"{document['engine']}: {models} models, {samples} samples, {document['cores']} cores")
    for side, name in (("rebuilt", "a session rebuilt for each"), ("scan", "trtbuild's scan")):
        took = statistics.median(document[f"{side}_seconds"])
        one = document["one_sample_seconds"][side]
        growing = (took - one) / max(1, samples - 1)
        print(f"{name:28}{took:8.1f} s = {one - growing:.2f} s + {growing:.3f} s per sample")
    parts = ", ".join(
        f"{part} {1e3 * total / models:.0f} ms" for part, total in document["rebuilt_parts_seconds"].items()
    )
    print(f"rebuilt, per model: {parts}")
    ratios = ", ".join(f"{ratio:.2f}" for ratio in document["ratios"])
    print(f"{document['ratio']:.2f} times faster ({ratios})")
    same = f"{document['to_the_bit']} of {models} figures equal to the bit"
    print(f"{same}, largest relative difference {document['largest_difference']:.1e}")


if __name__ == "__main__":
    sys.exit(main())

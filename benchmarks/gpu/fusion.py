"""Does INT8 with an FP16 fallback cost a fusion in the explicit model?

    python -m benchmarks.gpu.fusion [ENGINE] [--batch N] [--json]

There a Cast stands between an INT8 Conv and the FP16 BatchNormalization behind it. Side by side in one
process: the explicit model (Q/DQ and Casts in the graph) and the implicit build (the builder decides), each
with FP32 and with FP16 as the fallback: how many layers run, how many of them only reformat, and latency.
Without ENGINE: a chain of Conv, BatchNormalization and Relu. The explicit model is built strongly typed where
TensorRT can, otherwise as a model that brings its own Q/DQ.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser

from trtbuild import bench, pipeline, tables
from trtbuild.batches import one_batch
from trtbuild.engine import Engine, open_engine
from trtbuild.errors import TrtbuildError, as_trtbuild_error
from trtbuild.model import files
from trtbuild.model.model import Model
from trtbuild.precision import rules
from trtbuild.profiles import profiles_of
from trtbuild.rewrite.explicit import explicit
from trtbuild.targets.base import Request, Target
from trtbuild.targets.choose import by_name, choose
from trtbuild.targets.trt import binding as trt_binding
from trtbuild.targets.trt import inspector, timing

SCHEMA_VERSION = 1
BLOCKS, CHANNELS, SIZE = 8, 64, 56
VARIANTS = [(mode, fallback) for mode in ("implicit", "explicit") for fallback in ("fp32", "fp16")]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("engine", nargs="?")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        with opened(arguments.engine) as engine:
            document = measure(engine, arguments.batch, arguments.iterations)
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


def measure(engine: Engine, batch: int | None, iterations: int) -> dict[str, Any]:
    """{"variants": {"explicit, fp16": layers, reformats, latency}, "refused": {variant: why}}."""
    choose("tensorrt", "implicit")  # a GPU and a TensorRT that has both
    variants: dict[str, Any] = {}
    refused: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        plans: dict[str, Path] = {}
        for mode, fallback in VARIANTS:
            name, plan = f"{mode}, {fallback}", Path(folder) / f"{mode}-{fallback}.plan"
            try:
                request, target = prepared(engine, mode, fallback, Path(folder))
                facts = target.build(request, plan).facts
            except TrtbuildError as error:
                refused[name] = str(error)
                continue
            plans[name] = plan
            variants[name] = {"layers": layers_of(plan), "bytes": plan.stat().st_size, "target": facts}
        model = Model.open(engine.model)
        shards = tables.open_shards(engine.require_shards(), engine, model)
        profiles = profiles_of(model.inputs, engine.recipe.inputs, shards)
        fed = one_batch(model.inputs, profiles, shards, engine.recipe.model.batched, batch)
        timings = timing.time_plans(plans, fed.feeds, bench.WARMUP, iterations)
    for name, milliseconds in timings.milliseconds.items():
        variants[name]["figures"] = vars(bench.figures_of(milliseconds, fed.samples))
    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": "fusion",
        "engine": engine.name,
        "samples": fed.samples,
        "method": timings.method,
        "variants": variants,
        "refused": refused,
    }


def prepared(engine: Engine, mode: str, fallback: str, folder: Path) -> tuple[Request, Target]:
    """What to build for a variant, and who builds it. No pins: every product may be INT8."""
    recipe = engine.recipe.model_copy(
        update={
            "pin": (),
            "precision": engine.recipe.precision.model_copy(update={"default": "int8", "fallback": fallback}),
            "tensorrt": engine.recipe.tensorrt.model_copy(update={"calibrator": "ranges"}),
        }
    )
    engine = replace(engine, recipe=recipe)
    typed = trt_binding.strongly_typed(trt_binding.load(trt_binding.TENSORRT))
    implicit = by_name("tensorrt", "implicit")
    target = by_name("tensorrt", "explicit") if mode == "explicit" and typed else implicit
    model, precisions = pipeline.pins(engine, target)
    shards = tables.open_shards(engine.require_shards(), engine, model)
    profiles = profiles_of(model.inputs, recipe.inputs, shards)
    table = tables.ranges_of(engine, model, implicit).table
    request = Request(model, precisions, table, profiles, recipe)
    if mode == "implicit" or typed:
        return request, target
    written = folder / f"{fallback}.onnx"
    meant = rules.resolve(model, recipe.precision, ())
    files.save(explicit(model, meant, table, "typed"), written)
    brought = Model.open(written)
    return replace(
        request, model=brought, precisions=rules.resolve(brought, recipe.precision, (), True), table=None
    ), target


def layers_of(plan: Path) -> dict[str, int]:
    """How many layers run, and how many of them only change a format or a type."""
    found = inspector.inspect(trt_binding.load(trt_binding.TENSORRT), plan.read_bytes(), (), True)
    return {"executed": found.executed, "reformats": found.reformats}


@contextmanager
def opened(reference: str | None) -> Iterator[Engine]:
    """The engine of that name, or the chain in a temporary folder."""
    if reference is not None:
        yield open_engine(reference)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield chain(Path(folder) / "conv-bn-relu")


def chain(folder: Path) -> Engine:
    """BLOCKS of Conv, BatchNormalization and Relu, and a shard to calibrate on."""
    rng = np.random.default_rng(0)
    (folder / "shards").mkdir(parents=True)
    shape = f"float[n,{CHANNELS},{SIZE},{SIZE}]"
    body, weights = "", {}
    for block in range(BLOCKS):
        before, after = ("x" if block == 0 else f"r{block - 1}"), "y" if block == BLOCKS - 1 else f"r{block}"
        body += f"c{block} = Conv<pads = [1,1,1,1]>({before}, w{block})"
        body += f"n{block} = BatchNormalization(c{block}, s{block}, t{block}, t{block}, s{block})"
        body += f"{after} = Relu(n{block})"
        scale = np.sqrt(2 / (9 * CHANNELS))
        weights[f"w{block}"] = rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) * scale
        weights[f"s{block}"] = rng.uniform(0.8, 1.2, CHANNELS)
        weights[f"t{block}"] = rng.standard_normal(CHANNELS) * 0.1
    text = f'<ir_version: 8, opset_import: ["": 17]> chain ({shape} x) => ({shape} y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save(model, folder / "model.onnx")
    np.savez(folder / "shards" / "0.npz", x=rng.standard_normal((16, CHANNELS, SIZE, SIZE), np.float32))
    limits = {"min": 1, "opt": 16, "max": 32}
    lines = (f"{key} = [{batch}, {CHANNELS}, {SIZE}, {SIZE}]" for key, batch in limits.items())
    (folder / "recipe.toml").write_text("\n".join(["[inputs.x]", *lines, ""]))
    return open_engine(str(folder))


def show(document: dict[str, Any]) -> None:
    print(f"{document['engine']}, {document['samples']} samples at a time, {document['method']}")
    for name, found in document["variants"].items():
        layers, figures = found["layers"], found["figures"]
        print(
            f"  {name:16}{layers['executed']:5} layers run, {layers['reformats']:4} only reformat"
            f"{figures['median_ms']:10.4f} ms median{figures['p99_ms']:10.4f} ms p99"
        )
    for name, why in document["refused"].items():
        print(f"  {name:16}refused: {why}")


if __name__ == "__main__":
    sys.exit(main())

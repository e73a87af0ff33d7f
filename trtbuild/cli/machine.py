"""`bench`, `doctor`: what this machine does with an engine, and what it can do at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from trtbuild.cli.options import (
    CALIB,
    JSON,
    MODE,
    PIN,
    RANGES,
    SCHEMA_VERSION,
    VERBOSE,
    common,
    show,
    with_mode,
)

LARGEST_DOCUMENT = 64 << 20  # bytes


@click.command()
@click.argument("engine")
@click.option("--batch", type=click.IntRange(1), metavar="N", help="Samples at a time, within the profile.")
@click.option("--iterations", type=click.IntRange(1), default=200, show_default=True, metavar="N")
@click.option("--warmup", type=click.IntRange(0), default=50, show_default=True, metavar="N")
@click.option("--layers", is_flag=True, help="Also the time of each layer of FP32 and INT8, by node.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="The document that --json prints."
)
@MODE
@PIN
@CALIB
@RANGES
@common
def bench(
    engine: str,
    batch: int | None,
    iterations: int,
    warmup: int,
    layers: bool,
    output: Path | None,
    mode: str | None,
    pins: tuple[str, ...],
    calib: Path | None,
    ranges: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """Latency and throughput of FP32, FP16, INT8 and mixed, side by side (TensorRT, on a GPU).

    Device time at the profile's OPT shapes, host copies not included. Layers take longer: TensorRT's profiler
    launches them one by one.
    """
    from trtbuild.bench import bench as run
    from trtbuild.engine import open_engine
    from trtbuild.render import machine as render

    opened = open_engine(engine, with_mode(overrides, mode), pins, calib, ranges=ranges)
    if output is not None:
        _check(output)
    document = run(opened, batch, iterations, warmup, layers).to_dict()
    if output is not None:
        _write(document, output)
    show(document, as_json, render.bench)


def _check(output: Path) -> None:
    """Raise InputError, before the work, unless the document can be written over nothing but another."""
    from trtbuild.errors import InputError
    from trtbuild.paths import check_writable

    check_writable(output, "-o")
    if output.exists() and output.stat().st_size and not _is_document(output):
        raise InputError(f"-o {output} is there and is no document of bench; give another name or delete it")


def _is_document(path: Path) -> bool:
    if path.stat().st_size > LARGEST_DOCUMENT:
        return False
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and "timed" in document


def _write(document: dict[str, Any], output: Path) -> None:
    from trtbuild.progress import say
    from trtbuild.ship.store import write_text

    text = json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=1, allow_nan=False)
    write_text(output, text)
    say(f"bench: {output}")


@click.command()
@JSON
@VERBOSE
def doctor(as_json: bool, verbose: bool) -> None:
    """What this machine can build and run, and what is missing."""
    from trtbuild.doctor import diagnose
    from trtbuild.render import machine as render

    show(diagnose().to_dict(), as_json, render.doctor)

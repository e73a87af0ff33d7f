"""`bench`, `doctor`: what this machine does with an engine, and what it can do at all."""

from __future__ import annotations

from pathlib import Path

import click

from trtbuild.cli.options import CALIB, JSON, MODE, PIN, RANGES, VERBOSE, common, show, with_mode


@click.command()
@click.argument("engine")
@click.option("--batch", type=click.IntRange(1), metavar="N", help="Samples at a time, within the profile.")
@click.option("--iterations", type=click.IntRange(1), default=200, show_default=True, metavar="N")
@click.option("--warmup", type=click.IntRange(0), default=50, show_default=True, metavar="N")
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
    mode: str | None,
    pins: tuple[str, ...],
    calib: Path | None,
    ranges: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """Latency and throughput of FP32, FP16, INT8 and mixed, side by side (TensorRT, on a GPU).

    Device time at the profile's OPT shapes, host copies not included.
    """
    from trtbuild.bench import bench as run
    from trtbuild.engine import open_engine
    from trtbuild.render import machine as render

    opened = open_engine(engine, with_mode(overrides, mode), pins, calib, ranges=ranges)
    show(run(opened, batch, iterations, warmup).to_dict(), as_json, render.bench)


@click.command()
@JSON
@VERBOSE
def doctor(as_json: bool, verbose: bool) -> None:
    """What this machine can build and run, and what is missing."""
    from trtbuild.doctor import diagnose
    from trtbuild.render import machine as render

    show(diagnose().to_dict(), as_json, render.doctor)

"""The command line: parse, call the pipeline, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from trtbuild import __version__
from trtbuild.errors import ExitCode, InputError

SCHEMA_VERSION = 1
F = TypeVar("F", bound=Callable[..., Any])

_TARGET = click.option(
    "--target",
    "target",
    default="auto",
    show_default=True,
    metavar="auto|tensorrt|tensorrt-rtx|onnxruntime",
    help="What to build for.",
)
_MODE = click.option(
    "--mode",
    type=click.Choice(["implicit", "explicit"]),
    help="For TensorRT 10, which can do both: ranges and layer precisions that the builder goes by, or "
    "Q/DQ in the model. Implicit means target tensorrt.",
)
_PIN = click.option(
    "--pin",
    "pins",
    multiple=True,
    metavar="RULE",
    help="A name, glob:…, re:…, type:T, trt-type:T, pattern:P, first:N, last:N, weights-below:X; then =fp16, "
    "say.",
)
_CALIB = click.option(
    "--calib",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Calibration shards (needed by a bare model).",
)
_RANGES = click.option(
    "--ranges",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A range table, a build's manifest or a TensorRT cache: no calibration run.",
)
_OUTPUT = click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the result here too."
)

_json = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on stdout, all else on stderr."
)
_verbose = click.option("-v", "--verbose", is_flag=True, help="Show the traceback behind an error.")


def _with_mode(overrides: tuple[str, ...], mode: str | None) -> tuple[str, ...]:
    return (*overrides, f"tensorrt.mode={mode}") if mode else overrides


def _target(name: str, mode: str | None) -> str:
    """The target that --target and --mode mean together: only `tensorrt` has an implicit mode.

    Raises InputError for implicit mode on one of the others, which write precisions into the model.
    """
    if mode != "implicit" or name not in ("auto", "onnxruntime", "tensorrt-rtx"):
        return name
    if name == "auto":
        return "tensorrt"
    raise InputError(
        f"--mode implicit: only target tensorrt has it, target {name} builds the explicit model; "
        "drop --mode, or give --target tensorrt"
    )


def _common(command: F) -> F:
    """The options that every command on an engine has."""
    for option in (
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key."),
        _json,
        _verbose,
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, prog_name="trtbuild")
@click.pass_context
def cli(context: click.Context) -> None:
    """ONNX to TensorRT engines: calibrated INT8, proven pins, and a golden diff of every layer.

    ENGINE is a folder with a recipe.toml, its name under engines/, or a bare MODEL.onnx.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(ExitCode.INPUT)


@cli.command()
@click.argument("engine")
@_TARGET
@_MODE
@_PIN
@_common
@click.pass_context
def pins(
    context: click.Context,
    engine: str,
    target: str,
    mode: str | None,
    pins: tuple[str, ...],
    overrides: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """The resolved precision per node, matches per rule, share pinned."""
    from trtbuild import pipeline, render
    from trtbuild.engine import open_engine
    from trtbuild.precision.rules import check_budget
    from trtbuild.targets.choose import by_name

    opened = open_engine(engine, _with_mode(overrides, mode), pins)
    budget = opened.recipe.precision.budget
    chosen = by_name(_target(target, mode), opened.recipe.tensorrt.mode)
    _, precisions = pipeline.pins(opened, chosen)
    document: dict[str, Any] = {
        "engine": opened.name,
        "target": chosen.name,
        "implicit": chosen.implicit,
        "budget": budget,
        **precisions.to_dict(),
    }
    try:
        check_budget(precisions, budget)
    except InputError as error:  # the table is the help: it is shown with the error
        _print({**document, "error": str(error), "exit_code": ExitCode.INPUT}, as_json, render.pins)
        click.echo(f"error: {error}", err=True)
        context.exit(ExitCode.INPUT)
    _print(document, as_json, render.pins)


@cli.command()
@click.argument("engine")
@_TARGET
@_MODE
@_CALIB
@_OUTPUT
@click.option(
    "--cache-for",
    default="10.3.0",
    show_default=True,
    metavar="VERSION",
    help="TensorRT version of the cache.",
)
@_common
def calibrate(
    engine: str,
    target: str,
    mode: str | None,
    calib: Path | None,
    output: Path | None,
    cache_for: str,
    overrides: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """Shards -> ranges of what TARGET needs, and the same as a TensorRT cache (FILE and FILE.cache)."""
    from trtbuild import pipeline, render
    from trtbuild.engine import open_engine
    from trtbuild.targets.choose import by_name

    opened = open_engine(engine, _with_mode(overrides, mode), calib=calib)
    chosen = by_name(_target(target, mode), opened.recipe.tensorrt.mode)
    table, path, cache = pipeline.calibrate_to(opened, chosen, output, cache_for)
    document = {"engine": opened.name, "path": str(path), "cache": str(cache), **table.to_dict()}
    _print(document, as_json, render.ranges)


@cli.command()
@click.argument("engine")
@_TARGET
@_MODE
@_PIN
@_CALIB
@_RANGES
@_OUTPUT
@_common
def build(
    engine: str,
    target: str,
    mode: str | None,
    pins: tuple[str, ...],
    calib: Path | None,
    ranges: Path | None,
    output: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """Calibrate if needed, build, audit."""
    from trtbuild import pipeline, render
    from trtbuild.engine import open_engine

    opened = open_engine(engine, _with_mode(overrides, mode), pins, calib, ranges=ranges)
    built = pipeline.build(opened, _target(target, mode), output)
    _print({"path": str(output or built.artifact), **built.manifest}, as_json, render.build)


@cli.command()
@click.argument("engine")
@click.option("--build", "key", metavar="BUILD", help="Another build than the newest.")
@click.option("--samples", type=click.Path(path_type=Path), metavar="DIR", help="Validation samples.")
@click.option(
    "--golden",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Golden outputs that --save-golden wrote: no golden run.",
)
@click.option(
    "--save-golden",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep the golden outputs, for a device that must not run a golden.",
)
@_common
@click.pass_context
def validate(
    context: click.Context,
    engine: str,
    key: str | None,
    samples: Path | None,
    golden: Path | None,
    save_golden: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """Golden diff of the newest build of ENGINE (or of a BUILD), and the gate. Exit code 1: it said no."""
    from trtbuild import locate, pipeline, render

    built = locate.find_build(engine, key)
    opened = locate.engine_of(built, engine, overrides, samples)
    verdict = pipeline.validate(opened, built, golden, save_golden)
    _print({"build": built.key, **verdict.to_dict()}, as_json, render.verdict)
    if not verdict.passed:
        context.exit(ExitCode.GATE)


@cli.command()
@click.argument("build")
@_json
@_verbose
def inspect(build: str, as_json: bool, verbose: bool) -> None:
    """Layers, real precisions and sizes of a BUILD: a folder, the beginning of a key, or an output file."""
    from trtbuild import locate, pipeline, render

    built = locate.find_build(build)
    document = {"path": str(built.artifact), **pipeline.inspect(built)}
    _print(document, as_json, render.inspect)


@cli.command()
@click.argument("engine")
@click.option("--batch", type=click.IntRange(1), metavar="N", help="Samples at a time, within the profile.")
@click.option("--iterations", type=click.IntRange(1), default=200, show_default=True, metavar="N")
@click.option("--warmup", type=click.IntRange(0), default=50, show_default=True, metavar="N")
@_MODE
@_PIN
@_CALIB
@_RANGES
@_common
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
    from trtbuild import render
    from trtbuild.bench import bench as run
    from trtbuild.engine import open_engine

    opened = open_engine(engine, _with_mode(overrides, mode), pins, calib, ranges=ranges)
    _print(run(opened, batch, iterations, warmup).to_dict(), as_json, render.bench)


@cli.command()
@_json
@_verbose
def doctor(as_json: bool, verbose: bool) -> None:
    """What this machine can build and run, and what is missing."""
    from trtbuild import render
    from trtbuild.doctor import diagnose

    _print(diagnose().to_dict(), as_json, render.doctor)


def _print(document: dict[str, Any], as_json: bool, render: Callable[[dict[str, Any]], None]) -> None:
    """The command's result. That nobody reads it changes nothing about its exit code."""
    try:
        if as_json:
            click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=1, allow_nan=False))
        else:
            render(document)
    except (BrokenPipeError, SystemExit):  # the second is rich's name for the first
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

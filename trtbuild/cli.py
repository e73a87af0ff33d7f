"""The command line: parse, call the pipeline, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from trtbuild import __version__
from trtbuild.errors import ExitCode, InputError, as_trtbuild_error
from trtbuild.progress import STOP

SCHEMA_VERSION = 1
INTERRUPTED = "interrupted; nothing was left half-written"
F = TypeVar("F", bound=Callable[..., Any])

_TARGET = click.option(
    "--target",
    "target",
    default="auto",
    show_default=True,
    metavar="auto|tensorrt|tensorrt-rtx|onnxruntime",
    help="What to build for.",
)
_PIN = click.option(
    "--pin",
    "pins",
    multiple=True,
    metavar="RULE",
    help="A name, glob:…, re:…, type:T, pattern:P, first:N, last:N or weights-below:X; then =fp16, say.",
)
_CALIB = click.option(
    "--calib",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Calibration shards (needed by a bare model).",
)
_OUTPUT = click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the result here too."
)


_json = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on stdout, all else on stderr."
)
_verbose = click.option("-v", "--verbose", is_flag=True, help="Show the traceback behind an error.")


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
@_PIN
@_common
@click.pass_context
def pins(
    context: click.Context,
    engine: str,
    pins: tuple[str, ...],
    overrides: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """The resolved precision per node, matches per rule, share pinned."""
    from trtbuild import pipeline, render
    from trtbuild.engine import open_engine
    from trtbuild.precision.rules import check_budget

    opened = open_engine(engine, overrides, pins)
    budget = opened.recipe.precision.budget
    _, precisions = pipeline.pins(opened)
    document: dict[str, Any] = {"engine": opened.name, "budget": budget, **precisions.to_dict()}
    try:
        check_budget(precisions, budget)
    except InputError as error:  # the table is the help: it is shown with the error
        _print({**document, "error": str(error), "exit_code": ExitCode.INPUT}, as_json, render.pins)
        click.echo(f"error: {error}", err=True)
        context.exit(ExitCode.INPUT)
    _print(document, as_json, render.pins)


@cli.command()
@click.argument("engine")
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
    calib: Path | None,
    output: Path | None,
    cache_for: str,
    overrides: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """Shards -> ranges, and the same as a TensorRT calibration cache (FILE and FILE.cache)."""
    from trtbuild import pipeline, render
    from trtbuild.engine import open_engine

    opened = open_engine(engine, overrides, calib=calib)
    table, path, cache = pipeline.calibrate_to(opened, output, cache_for)
    document = {"engine": opened.name, "path": str(path), "cache": str(cache), **table.to_dict()}
    _print(document, as_json, render.ranges)


@cli.command()
@click.argument("engine")
@_TARGET
@_PIN
@_CALIB
@_OUTPUT
@_common
def build(
    engine: str,
    target: str,
    pins: tuple[str, ...],
    calib: Path | None,
    output: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """Calibrate if needed, build, audit."""
    from trtbuild import pipeline, render
    from trtbuild.engine import open_engine

    opened = open_engine(engine, overrides, pins, calib)
    built = pipeline.build(opened, target, output)
    _print({"path": str(output or built.artifact), **built.manifest}, as_json, render.build)


@cli.command()
@click.argument("engine")
@click.option("--build", "key", metavar="BUILD", help="Another build than the newest.")
@click.option("--samples", type=click.Path(path_type=Path), metavar="DIR", help="Validation samples.")
@_common
@click.pass_context
def validate(
    context: click.Context,
    engine: str,
    key: str | None,
    samples: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """Golden diff of the newest build of ENGINE (or of a BUILD), and the gate. Exit code 1: it said no."""
    from trtbuild import locate, pipeline, render

    built = locate.find_build(engine, key)
    opened = locate.engine_of(built, engine, overrides, samples)
    verdict = pipeline.validate(opened, built)
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


def main() -> None:
    """Entry point: run the command and translate every failure into one line and an exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no bug
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code."""
    try:
        with _control_c():
            return int(cli.main(arguments, prog_name="trtbuild", standalone_mode=False) or 0)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _fail(INTERRUPTED, ExitCode.INTERRUPTED, arguments)
    except click.ClickException as error:
        return _fail(_usage(error), ExitCode.INPUT, arguments)
    except SystemExit:  # click's answer to a broken pipe: whoever read our progress is gone
        return ExitCode.INTERRUPTED
    except Exception as error:
        if STOP.is_set():  # what a swallowed interrupt broke
            return _fail(INTERRUPTED, ExitCode.INTERRUPTED, arguments)
        known = as_trtbuild_error(error)
        if known is None:
            return _fail(_bug(error), ExitCode.BUG, arguments)
        if {"-v", "--verbose"} & set(arguments):
            traceback.print_exception(error)
        return _fail(str(known), known.exit_code, arguments)


@contextmanager
def _control_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt at once, and is remembered for where a library swallows that."""
    STOP.clear()
    previous = signal.getsignal(signal.SIGINT)
    if previous is not signal.default_int_handler or threading.current_thread() != threading.main_thread():
        yield  # ignored by whoever started us, or handled by a program that calls us
        return

    def stop(*_: object) -> None:
        STOP.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _usage(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"; see '{context.command_path} --help'" if context is not None else ""
    return error.format_message().rstrip(".") + hint


def _fail(message: str, code: ExitCode, arguments: list[str]) -> int:
    line = " ".join(message.split())
    with suppress(OSError):  # a full disk behind stdout or stderr: the exit code still tells
        click.echo(f"error: {line}", err=True)
        if "--json" in arguments:
            click.echo(json.dumps({"schema_version": SCHEMA_VERSION, "error": line, "exit_code": int(code)}))
    return int(code)


def _bug(error: Exception) -> str:
    """Write the traceback to a file; the message names it."""
    what = f"a bug in trtbuild ({type(error).__name__}: {error})"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="trtbuild-bug-", suffix=".txt", delete=False) as report:
            report.write(f"trtbuild {__version__}: {' '.join(sys.argv)}\n")
            traceback.print_exception(error, file=report)
    except OSError as failure:
        traceback.print_exception(error)
        return f"{what}; its report could not be written: {failure}"
    return f"{what}; please report it with {report.name}"

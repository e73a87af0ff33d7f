"""The options that commands share, and how every command prints its result."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from trtbuild.cli.numbers import Number
from trtbuild.errors import InputError

SCHEMA_VERSION = 1
F = TypeVar("F", bound=Callable[..., Any])

TARGET = click.option(
    "--target",
    "target",
    default="auto",
    show_default=True,
    metavar="auto|tensorrt|tensorrt-rtx|onnxruntime",
    help="What to build for.",
)
MODE = click.option(
    "--mode",
    type=click.Choice(["implicit", "explicit"]),
    help="For TensorRT 10, which can do both: ranges and layer precisions that the builder goes by, or "
    "Q/DQ in the model. Implicit means target tensorrt.",
)
PIN = click.option(
    "--pin",
    "pins",
    multiple=True,
    metavar="RULE",
    help="A name, glob:…, re:…, type:T, trt-type:T, pattern:P, first:N, last:N, weights-below:X; then =fp16, "
    "say.",
)
CALIB = click.option(
    "--calib",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Calibration shards (needed by a bare model).",
)
RANGES = click.option(
    "--ranges",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A range table, a build's manifest or a TensorRT cache: no calibration run.",
)
_COLLECT = (
    click.option(
        "--workers", type=click.IntRange(1), default=1, metavar="N", help="Processes that calibrate (1)."
    ),
    click.option(
        "--cluster", metavar="URL", help="dask://HOST:PORT or ray://HOST:PORT: calibrate there instead."
    ),
    click.option(
        "--memory-limit",
        type=Number(positive=True),
        metavar="GB",
        help="Activations that a calibrating process holds at once (0.5).",
    ),
)
OUTPUT = click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the result here too."
)

SEED = click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    help="Of --draw and of the confidence intervals; default: 0.",
)
HTML = click.option(
    "--html", type=click.Path(path_type=Path), metavar="FILE", help="The whole report as one HTML file."
)

JSON = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on stdout, all else on stderr."
)
VERBOSE = click.option("-v", "--verbose", is_flag=True, help="Show the traceback behind an error.")


def with_mode(overrides: tuple[str, ...], mode: str | None) -> tuple[str, ...]:
    return (*overrides, f"tensorrt.mode={mode}") if mode else overrides


def target_of(name: str, mode: str | None) -> str:
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


def common(command: F) -> F:
    """The options that every command on an engine has."""
    for option in (
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key."),
        JSON,
        VERBOSE,
    ):
        command = option(command)
    return command


def collecting(command: F) -> F:
    """How a command that may calibrate does that: `how`, made of options."""

    @functools.wraps(command)
    def collected(
        *arguments: Any, workers: int, cluster: str | None, memory_limit: float | None, **others: Any
    ) -> Any:
        from trtbuild.collect.collect import ON_THIS_MACHINE, Options

        memory = ON_THIS_MACHINE.memory if memory_limit is None else memory_limit * 1e9
        return command(*arguments, how=Options(memory, workers, cluster), **others)

    for option in reversed(_COLLECT):
        collected = option(collected)
    return cast(F, collected)


def show(document: dict[str, Any], as_json: bool, render: Callable[[dict[str, Any]], None]) -> None:
    """The command's result. That nobody reads it changes nothing about its exit code."""
    try:
        if as_json:
            click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=1, allow_nan=False))
        else:
            render(document)
    except (BrokenPipeError, SystemExit):  # the second is rich's name for the first
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

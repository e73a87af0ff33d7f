"""`pins`, `build`, `inspect`: what is decided, what is built, what it became."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtbuild.cli.options import (
    CALIB,
    JSON,
    MODE,
    OUTPUT,
    PIN,
    RANGES,
    TARGET,
    VERBOSE,
    collecting,
    common,
    show,
    target_of,
    with_mode,
)
from trtbuild.errors import ExitCode, InputError

if TYPE_CHECKING:
    from trtbuild.collect.collect import Options


@click.command()
@click.argument("engine")
@TARGET
@MODE
@PIN
@common
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
    from trtbuild import pipeline
    from trtbuild.engine import open_engine
    from trtbuild.precision.rules import check_budget
    from trtbuild.render import build as render
    from trtbuild.targets.choose import by_name

    opened = open_engine(engine, with_mode(overrides, mode), pins)
    budget = opened.recipe.precision.budget
    chosen = by_name(target_of(target, mode), opened.recipe.tensorrt.mode)
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
        show({**document, "error": str(error), "exit_code": ExitCode.INPUT}, as_json, render.pins)
        click.echo(f"error: {error}", err=True)
        context.exit(ExitCode.INPUT)
    show(document, as_json, render.pins)


@click.command()
@click.argument("engine")
@TARGET
@MODE
@PIN
@CALIB
@RANGES
@OUTPUT
@collecting
@common
def build(
    engine: str,
    target: str,
    mode: str | None,
    pins: tuple[str, ...],
    calib: Path | None,
    ranges: Path | None,
    output: Path | None,
    how: Options,
    overrides: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """Calibrate if needed, build, audit."""
    from trtbuild import pipeline
    from trtbuild.engine import open_engine
    from trtbuild.render import build as render

    opened = open_engine(engine, with_mode(overrides, mode), pins, calib, ranges=ranges)
    built = pipeline.build(opened, target_of(target, mode), output, how)
    show({"path": str(output or built.artifact), **built.manifest}, as_json, render.build)


@click.command()
@click.argument("build")
@JSON
@VERBOSE
def inspect(build: str, as_json: bool, verbose: bool) -> None:
    """Layers, real precisions and sizes of a BUILD: a folder, the beginning of a key, or an output file."""
    from trtbuild import locate, pipeline
    from trtbuild.render import build as render

    built = locate.find_build(build)
    document = {"path": str(built.artifact), **pipeline.inspect(built)}
    show(document, as_json, render.inspect)

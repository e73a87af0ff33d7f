"""`calibrate`: shards to ranges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtbuild.cli.options import (
    CALIB,
    MODE,
    OUTPUT,
    TARGET,
    collecting,
    common,
    show,
    target_of,
    with_mode,
)

if TYPE_CHECKING:
    from trtbuild.collect.collect import Options


@click.command()
@click.argument("engine")
@TARGET
@MODE
@CALIB
@OUTPUT
@click.option(
    "--cache-for",
    default="10.3.0",
    show_default=True,
    metavar="VERSION",
    help="TensorRT version of the cache.",
)
@click.option(
    "--compare",
    type=click.Path(path_type=Path),
    metavar="TABLE",
    help="Show where the ranges differ from those of a range table, a build's manifest or a TensorRT cache.",
)
@collecting
@common
def calibrate(
    engine: str,
    target: str,
    mode: str | None,
    calib: Path | None,
    output: Path | None,
    cache_for: str,
    compare: Path | None,
    how: Options,
    overrides: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """Shards -> ranges of what TARGET needs, and the same as a TensorRT cache (FILE and FILE.cache)."""
    from trtbuild import pipeline, ranges_file
    from trtbuild.engine import open_engine
    from trtbuild.render import ranges as render
    from trtbuild.targets.choose import by_name

    opened = open_engine(engine, with_mode(overrides, mode), calib=calib)
    chosen = by_name(target_of(target, mode), opened.recipe.tensorrt.mode)
    other = ranges_file.read(compare, "--compare") if compare is not None else None
    table, path, cache = pipeline.calibrate_to(opened, chosen, output, cache_for, how)
    document = {"engine": opened.name, "path": str(path), "cache": str(cache), **table.to_dict()}
    if other is not None:
        document["comparison"] = ranges_file.compared(table, other).to_dict()
    show(document, as_json, render.ranges if other is None else render.comparison)

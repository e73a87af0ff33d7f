"""`calibrate`: shards to ranges."""

from __future__ import annotations

from pathlib import Path

import click

from trtbuild.cli.options import CALIB, MODE, OUTPUT, TARGET, common, show, target_of, with_mode


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
@common
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

    opened = open_engine(engine, with_mode(overrides, mode), calib=calib)
    chosen = by_name(target_of(target, mode), opened.recipe.tensorrt.mode)
    table, path, cache = pipeline.calibrate_to(opened, chosen, output, cache_for)
    document = {"engine": opened.name, "path": str(path), "cache": str(cache), **table.to_dict()}
    show(document, as_json, render.ranges)

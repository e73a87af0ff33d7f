"""`shards pack`, `check`, `compare`: the samples that an engine is calibrated and validated with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtbuild.cli.numbers import Number
from trtbuild.cli.options import F, common, show
from trtbuild.errors import ExitCode

if TYPE_CHECKING:
    from trtbuild.engine import Engine


class _Numbers(Number):
    """Such numbers with commas between them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return tuple(super(_Numbers, self).convert(part, param, ctx) for part in str(value).split(","))


class _Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        width, _, height = str(value).lower().partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            self.fail(f"{value!r}: expected width and height, as in 224x224", param, ctx)
        return int(width), int(height)


def _on_model(command: F) -> F:
    """--engine or --model: what the samples are for."""
    model = click.option("--model", metavar="MODEL.onnx", help="The model that the samples are for.")
    engine = click.option("--engine", metavar="ENGINE", help="The engine that they are for.")
    return engine(model(common(command)))


def _open(engine: str | None, model: str | None, overrides: tuple[str, ...]) -> Engine:
    from trtbuild.engine import open_engine

    if (engine is None) == (model is None):
        raise click.UsageError("give --engine ENGINE or --model MODEL.onnx, one of them")
    return open_engine(engine or model or "", overrides)


@click.group(invoke_without_command=True)
@click.pass_context
def shards(context: click.Context) -> None:
    """Pack, check and compare shards: folders of samples to calibrate or validate with."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(ExitCode.INPUT)


@shards.command()
@click.argument("source")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--per-shard", type=click.IntRange(1), default=64, show_default=True, metavar="N")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N samples.")
@click.option(
    "--layout", type=click.Choice(["nchw", "nhwc"]), help="Images: default as the model's shape says."
)
@click.option("--color", type=click.Choice(["rgb", "bgr", "gray"]), help="Images: rgb; gray for one channel.")
@click.option("--resize", type=_Size(), metavar="WxH", help="Images: default as the model's shape says.")
@click.option(
    "--scale",
    type=Number(positive=True),
    metavar="X",
    help="Images: value = (pixel * scale - mean) / std; 1/255, say.",
)
@click.option("--mean", type=_Numbers(), metavar="A,B,C", help="Images: per channel of the model, or one.")
@click.option("--std", type=_Numbers(positive=True), metavar="A,B,C", help="Images: as --mean.")
@_on_model
def pack(
    source: str,
    output: Path,
    per_shard: int,
    limit: int | None,
    layout: str | None,
    color: str | None,
    resize: tuple[int, int] | None,
    scale: float | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    engine: str | None,
    model: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """Write the samples of SOURCE as shards into the new folder OUTPUT.

    SOURCE is a folder of .npy, .npz or .safetensors files (a sample each, or a batch of them), a folder of
    images (with Pillow), or a function that yields samples, as file.py:function or module:function.
    """
    from trtbuild.render import shards as render
    from trtbuild.shards.pack import pack as run
    from trtbuild.shards.pixels import PixelOptions

    opened = _open(engine, model, overrides)
    options = PixelOptions(layout, scale, mean, std, color, resize)
    show(run(source, output, opened, options, per_shard, limit), as_json, render.pack)


@shards.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@_on_model
@click.pass_context
def check(
    context: click.Context,
    folder: Path,
    engine: str | None,
    model: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """What shards hold. Exit code 1: NaN, Inf, duplicates, or constant samples of float inputs.

    Without --engine or --model they are checked against each other, and axis 0 counts samples.
    """
    from trtbuild.render import shards as render
    from trtbuild.shards.check import check_folder

    opened = _open(engine, model, overrides) if engine or model or overrides else None
    document = check_folder(folder, opened)
    show(document, as_json, render.check)
    if not document["passed"]:
        context.exit(ExitCode.GATE)


@shards.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--threshold",
    type=Number(positive=True),
    default=0.25,
    show_default=True,
    metavar="PSI",
    help="The population stability index that no tensor may exceed.",
)
@click.option("--inputs-only", is_flag=True, help="The model's inputs alone: the model is not run.")
@_on_model
@click.pass_context
def compare(
    context: click.Context,
    a: Path,
    b: Path,
    threshold: float,
    inputs_only: bool,
    engine: str | None,
    model: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """Whether A (calibration) represents B (live traffic). Exit code 1: it does not.

    PSI and KL(B || A) of each input and of each tensor that int8 nodes read. What chance could do with so few
    samples fails nothing.
    """
    from trtbuild.render import shards as render
    from trtbuild.shards.compare import compare as run

    document = run(a, b, _open(engine, model, overrides), threshold, inputs_only)
    show(document, as_json, render.compare)
    if not document["passed"]:
        context.exit(ExitCode.GATE)

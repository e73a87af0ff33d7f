"""The command line: parse, call the pipeline, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import click

from trtbuild import __version__
from trtbuild.cli.build import build, inspect, pins
from trtbuild.cli.calibrate import calibrate
from trtbuild.cli.machine import bench, doctor
from trtbuild.cli.shards import shards
from trtbuild.cli.tune import tune
from trtbuild.cli.validate import validate
from trtbuild.errors import ExitCode


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


for command in (pins, calibrate, build, validate, tune, inspect, shards, bench, doctor):
    cli.add_command(command)

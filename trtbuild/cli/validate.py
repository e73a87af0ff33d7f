"""`validate`: the golden check and the gate."""

from __future__ import annotations

from pathlib import Path

import click

from trtbuild.cli.options import HTML, SEED, common, show
from trtbuild.errors import ExitCode


@click.command()
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
@click.option(
    "--baseline",
    metavar="BUILD",
    help="The build in production: fail unless the metric is surely no worse than with it, by a tolerance.",
)
@click.option(
    "--draw", type=click.IntRange(min=1), metavar="N", help="Only N of the samples, drawn by --seed."
)
@SEED
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="The document that --json prints."
)
@click.option(
    "--junit", type=click.Path(path_type=Path), metavar="FILE", help="JUnit XML: gate checks, failing layers."
)
@HTML
@click.option(
    "--annotate",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The ONNX model with precision, reason and error on each node, for Netron.",
)
@common
@click.pass_context
def validate(
    context: click.Context,
    engine: str,
    key: str | None,
    samples: Path | None,
    golden: Path | None,
    save_golden: Path | None,
    baseline: str | None,
    draw: int | None,
    seed: int,
    output: Path | None,
    junit: Path | None,
    html: Path | None,
    annotate: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """Golden diff of the newest build of ENGINE (or of a BUILD), and the gate. Exit code 1: it said no."""
    from trtbuild import locate, validation
    from trtbuild.render import verdict as render
    from trtbuild.report.document import compose
    from trtbuild.report.files import ReportFiles

    built = locate.find_build(engine, key)
    opened = locate.engine_of(built, engine, overrides, samples)
    files = ReportFiles(output, junit, html, annotate)
    files.check(opened, built, {"--save-golden": save_golden, "--golden": golden})
    production = locate.find_beside(opened, baseline) if baseline is not None else None
    how = validation.Options(golden, save_golden, production, draw, seed)
    checked = validation.check(opened, built, how)
    document = compose(checked)
    files.write(checked, document)
    show(document, as_json, render.verdict)
    if not checked.verdict.passed:
        context.exit(ExitCode.GATE)

"""`tune`: the fewest pins that pass the gate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtbuild.cli.numbers import Number
from trtbuild.cli.options import HTML, MODE, PIN, SEED, TARGET, collecting, common, show, target_of, with_mode
from trtbuild.errors import ExitCode, InputError

if TYPE_CHECKING:
    from trtbuild.collect.collect import Options as Collecting


@click.command()
@click.argument("engine")
@TARGET
@MODE
@PIN
@click.option(
    "--draw",
    type=click.IntRange(min=1),
    metavar="N",
    help="Validation samples that tell the error of a trial; default: 64, or all. The gate takes all.",
)
@SEED
@click.option(
    "--budget",
    type=Number(),
    metavar="SHARE",
    help="Of the nodes that int8 is for, the share that may be pinned; default: the recipe's, else all.",
)
@click.option(
    "--margin/--no-margin",
    default=True,
    help="Go on until the gate passes with 95 % confidence; or, as the gate itself does, by the mean.",
)
@click.option(
    "--repairs/--no-repairs",
    default=True,
    help="Equalization and bias correction may be tried (explicit mode only).",
)
@click.option("--scan", is_flag=True, help="Tell the sensitivity of every node even where no pin is needed.")
@click.option("--score", is_flag=True, help="Tell what each node alone does to the metric too; takes longer.")
@click.option(
    "--latency",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What `trtbuild bench ENGINE --layers -o FILE` wrote: what each pin costs.",
)
@click.option(
    "--budget-ms", type=Number(positive=True), metavar="MS", help="What the pins may cost, by --latency."
)
@click.option(
    "--by",
    type=click.Choice(["error", "latency"]),
    default="error",
    help="The next pin: that which lowers the error most, or most for its milliseconds.",
)
@click.option("--explain", metavar="NODE", help="Only say what is known of the sensitivity of a node.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Instead of tuned.toml beside the recipe.",
)
@HTML
@collecting
@common
@click.pass_context
def tune(
    context: click.Context,
    engine: str,
    target: str,
    mode: str | None,
    pins: tuple[str, ...],
    draw: int | None,
    seed: int,
    budget: float | None,
    margin: bool,
    repairs: bool,
    scan: bool,
    score: bool,
    latency: Path | None,
    budget_ms: float | None,
    by: str,
    explain: str | None,
    output: Path | None,
    html: Path | None,
    how: Collecting,
    overrides: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> None:
    """Find the fewest pins that pass the gate; into tuned.toml, which builds read. Exit code 1: none
    found."""
    from trtbuild import tuning
    from trtbuild.engine import open_engine
    from trtbuild.recipe import tuned
    from trtbuild.render import tune as render
    from trtbuild.report import tuning as report
    from trtbuild.report.files import check_place
    from trtbuild.ship.store import write_text
    from trtbuild.targets.choose import by_name
    from trtbuild.tune.options import Options

    if explain is not None and (output or html):
        raise click.UsageError("--explain writes no files: leave --output and --html out")
    options = Options(
        draw=draw,
        seed=seed,
        budget=budget,
        margin=margin,
        repairs=repairs,
        score=score,
        latency=latency,
        budget_ms=budget_ms,
        by_latency=by == "latency",
        scan=scan,
        output=output,
        given=(*(f"--set {text}" for text in overrides), *(f"--pin {rule}" for rule in pins)),
    )
    if explain is not None:
        opened = open_engine(engine, with_mode(overrides, mode), pins)
        show(tuning.explain(opened, explain, options, how), as_json, render.explain)
        return
    opened = open_engine(engine, (*with_mode(overrides, mode), "tuned=false"), pins)
    chosen = by_name(target_of(target, mode), opened.recipe.tensorrt.mode)
    if html is not None:
        check_place("--html", html, report.GENERATOR.encode())
        if html.resolve() == (output or opened.folder / tuned.NAME).resolve():
            raise InputError(f"--html {html} is where the pins are written; give another name")
    document = tuning.tune(opened, chosen, options, how)
    if html is not None:
        write_text(html, report.html(document))
    show(document, as_json, render.tune)
    if document["outcome"] == "failed":
        context.exit(ExitCode.GATE)

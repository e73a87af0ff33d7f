"""What `tune` prints."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trtbuild.render import pareto
from trtbuild.render.text import Document, add_line, add_row, new_console, new_table, some
from trtbuild.report import trials
from trtbuild.report.trials import (
    error_text,
    error_without_text,
    figure_text,
    fixed,
    interval_text,
    sqnr_text,
)
from trtbuild.tune.document import best_of

STYLES = {"passed with margin": "green", "passed": "green", "failed": "red"}
MEASURES = {
    "alone": "alone in int8",
    "activations": "- its activations only",
    "weights": "- its weights only",
    "all": "the recipe as it is",
    "reverted": "the recipe, but it in float",
}
WIDE = 110
"""Columns that the table of trials takes with all that it has."""


def tune(document: Document) -> None:
    console = new_console()
    _print_outcome(console, document)
    console.print(_trials(document, console.width < WIDE))
    rest = len(document["trials"]) - len(trials.telling(document))
    if rest:
        add_line(console, f"and {rest} more trials that are not on the front (--json and --html have all)")
    for line in (*pareto.plot(document, console.width), pareto.legend(document)):
        add_line(console, line)
    if document["pins"]:
        console.print(_pins(document))
    for line in _closing(document):
        add_line(console, line)


def explain(document: Document) -> None:
    """Why one node stands where it does in the ranking."""
    console, found, node = new_console(), document["sensitivity"], document["node"]
    what = f"{node['node']} ({node['op_type']}) of {document['engine']}"
    add_line(console, f"{what}: {node['precision']} ({node['reason']})")
    for line in _standing(document):
        add_line(console, line)
    measures = {**node, "all": found["all"]}
    columns = ["NSR", "SQNR, dB", "KL, nats", *filter(None, [found["metric"]])]
    table = new_table(
        f"errors of the outputs, {found['samples']} samples", "", *columns, numbers=len(columns)
    )
    for name, what in MEASURES.items():
        if measure := measures[name]:
            kl = "-" if measure["kl"] is None else f"{measure['kl']:.3g}"
            score = [fixed(measure["score"])] if found["metric"] else []
            add_row(table, what, error_text(measure["nsr"]), sqnr_text(measure["nsr"]), kl, *score)
    console.print(table)
    for line in _meaning(measures):
        add_line(console, line)
    console.print(_inputs(node["inputs"]))


def _print_outcome(console: Console, document: Document) -> None:
    outcome = document["outcome"]
    so_far = "interrupted, best so far: " if document["interrupted"] else ""
    rest = f": {document['engine']}, {trials.headline(document)}"
    style = STYLES[outcome]
    console.print(f"{so_far}[{style}]{outcome}[/]{escape(rest)}", highlight=False, soft_wrap=True)
    for line in (*best_of(document)["failing"], *filter(None, [trials.budget_text(document)])):
        add_line(console, line)


def _trials(document: Document, narrow: bool) -> Table:
    """narrow: there is no room for the error, and for the gate, of which the letter tells most."""
    lost = ("lost", "95 % interval") if document["golden"] is not None else ()
    more = () if narrow else ("error", "gate")
    table = new_table(
        f"pins against {trials.metric_of(document)}: the front and the recipe as it stands",
        *("", "setting", "trial", "pins", "figure", *lost, *more),
        numbers=3 + len(lost) + len(more),
    )
    for column in table.columns[2:]:
        column.no_wrap = True
    for trial in trials.telling(document):
        letter, what = pareto.mark(document, trial), f"{trial['label']} ({trial['why']})"
        figures = trial["number"], trial["pinned"], figure_text(document, trial["figure"])
        sure = (fixed(trial["drop"]), interval_text(trial["interval"])) if lost else ()
        rest = () if narrow else (error_text(trial["error"]), trials.gate_of(trial))
        add_row(table, letter, what, *figures, *sure, *rest)
    return table


def _pins(document: Document) -> Table:
    timed = any(pin["latency_ms"] is not None for pin in document["pins"])
    columns = ["error without", "with", "figure without", "with", *(["costs, ms"] if timed else [])]
    table = new_table("what each pin buys", "node", "type", *columns, numbers=len(columns))
    for pin in document["pins"]:
        errors = error_without_text(pin), error_text(pin["error"])
        figures = figure_text(document, pin["figure_without"]), figure_text(document, pin["figure"])
        cost = [fixed(pin["latency_ms"], 3)] if timed else []
        add_row(table, pin["node"], pin["op_type"], *errors, *figures, *cost)
    return table


def _closing(document: Document) -> Iterator[str]:
    if not document["pins"]:
        yield "no pins added"
    if document["settings"]:
        count, first = len(document["settings"]), document["settings"][0]
        least = f"{first['label']} ({error_text(first['error'])})"
        yield f"settings tried: {count}; least error without pins: {least}"
    if found := document["sensitivity"]:
        ranked = sorted(found["nodes"], key=lambda node: node["rank"])
        yield from some(f"most sensitive of {len(ranked)} nodes", [node["node"] for node in ranked])
    for found in document["engines"]:
        outcome = "passes" if found["passed"] else "fails"
        figure = figure_text(document, found["figure"])
        yield f"trial {found['number']} as an engine: {outcome}, {figure} (build {found['build']})"
    yield f"written: {document['written']}" if document["written"] else "nothing was written"


def _standing(document: Document) -> Iterator[str]:
    node, found = document["node"], document["sensitivity"]
    first, second = node["ranks_of_halves"]
    certain = trials.is_certain(found, (first, second), document["of"])
    all_nodes = "" if found["agreement"] is None else f" (all nodes: Spearman {found['agreement']:.2f})"
    yield f"rank {node['rank']} of {document['of']}, the most sensitive first"
    yield (
        f"the two halves of the samples put it at {first} and {second}: "
        f"{'they agree' if certain else 'its rank is uncertain'}{all_nodes}"
    )


def _meaning(measures: Document) -> Iterator[str]:
    """Nothing but ratios of what was measured. Shares need not add up: errors do not."""
    alone = measures["alone"]["nsr"]
    parts = [
        f"its {name} alone make {measures[name]['nsr'] / alone:.0%} of its error"
        for name in ("activations", "weights")
        if alone and measures[name] and measures[name]["nsr"] is not None
    ]
    if parts:
        yield f"{'; '.join(parts)} (they need not add up)"
    everything, reverted = measures["all"]["nsr"], measures["reverted"] and measures["reverted"]["nsr"]
    if everything and reverted is not None:
        change = reverted / everything - 1
        does = f"{'lowers' if change < 0 else 'raises'} the error by {abs(change):.1%}"
        yield f"back in float32 while all else is as the recipe has it, it {does}"
    scores = [measures[name] and measures[name]["score"] for name in ("all", "reverted")]
    if None not in scores:
        yield f"and the metric goes from {fixed(scores[0])} to {fixed(scores[1])}"


def _inputs(inputs: list[Document]) -> Table:
    columns = "range (amax)", "method", "channels", "spread of channels"
    table = new_table("what it reads", "tensor", "is", *columns, numbers=4)
    for entry in inputs:
        amax = "-" if entry["amax"] is None else f"{entry['amax']:.4g}"
        spread = "-" if entry["spread"] is None else f"{entry['spread']:.4g}"
        kind = "constant" if entry["constant"] else "activation"
        add_row(table, entry["tensor"], kind, amax, entry["method"] or "-", entry["channels"] or "-", spread)
    return table

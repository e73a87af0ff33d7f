"""What `validate` prints."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from trtbuild.render.text import Document, add_line, add_row, new_console, new_table
from trtbuild.report.rank import sqnr

WORST_SHOWN = 10
Row = tuple[str, str, str, str, str]


def verdict(document: Document) -> None:
    console = new_console()
    if document["layers"]:
        console.print(_worst(document["layers"]))
        for line in _to_try(document["worst"]):
            add_line(console, line)
    if document["first_divergence"]:
        add_line(console, f"first layer below 20 dB: {document['first_divergence']}")
    for node, why in document["not_checked"].items():
        add_line(console, f"not checked: {node} ({why})")
    if measured := [*_metric(document["metric"]), *_classes(document["outputs"])]:
        table = new_table("over all samples", "", "golden", "candidate", "lost", "95 % interval", numbers=4)
        for row in measured:
            add_row(table, *row)
        console.print(table)
    checks = new_table(f"gate of {document['build']}", "check", "seen", "wanted", "")
    for check in document["checks"]:
        add_row(checks, check["name"], check["seen"], check["wanted"], "ok" if check["passed"] else "FAILED")
    console.print(checks)
    console.print("[green]passed[/]" if document["passed"] else "[red]failed[/]")


def _metric(metric: Document | None) -> Iterator[Row]:
    if metric is None:
        return
    candidate = f"{metric['candidate']:.4f}"
    yield metric["name"], f"{metric['golden']:.4f}", candidate, f"{metric['drop']:.4f}", _interval(metric)
    if baseline := metric["baseline"]:
        name, mean = f"against {baseline['build']}", f"{baseline['mean']:.4f}, baseline"
        yield name, mean, candidate, f"{baseline['drop']:.4f}", _interval(baseline)
    if ece := metric["ece"]:
        rise = ece["candidate"] - ece["golden"]
        yield "calibration error", f"{ece['golden']:.4f}", f"{ece['candidate']:.4f}", f"{rise:.4f}", "-"


def _interval(drop: Document) -> str:
    return "{:.4f} to {:.4f}".format(*drop["interval"]) if drop["interval"] else "-"


def _classes(outputs: list[Document]) -> Iterator[Row]:
    for output in outputs:
        if found := output["classes"]:
            kl = "-" if found["kl"] is None else f"{found['kl']:.4g}"
            name = f"{output['tensor']}: argmax of {found['rows']} rows (KL {kl})"
            yield name, "-", "-", f"{found['argmax_changed']:.3%}", "-"


def _worst(layers: list[Document]) -> Table:
    compared = (layer for layer in layers if layer["difference"])
    worst = sorted(compared, key=lambda layer: sqnr(layer["difference"]))[:WORST_SHOWN]
    beside = [name for name in ("own", "inherited", "noise") if any(layer[name] for layer in worst)]
    table = new_table(
        f"the {len(worst)} worst of {len(layers)} layers",
        *("tensor", "node", "precision", "SQNR, dB", *beside, "cosine", "max abs"),
        numbers=3 + len(beside),
    )
    for layer in worst:
        found = layer["difference"]
        decibels = (f"{sqnr(layer[name]):.1f}" if layer[name] else "-" for name in ("difference", *beside))
        others = (f"{found[name]:.4g}" if found[name] is not None else "-" for name in ("cosine", "max_abs"))
        add_row(table, layer["tensor"], layer["node"], layer["precision"], *decibels, *others)
    return table


def _to_try(worst: list[Document]) -> list[str]:
    """Each pin that would address some of the worst layers, once, and the layers."""
    layers: dict[str, list[str]] = {}
    for row in worst:
        if row["pin"]:
            layers.setdefault(row["pin"].replace("\n", " "), []).append(row["tensor"])
    return [f"pin to try: {pin}  # {', '.join(names)}" for pin, names in layers.items()]

"""The documents of `shards pack`, `check` and `compare` as text."""

from __future__ import annotations

from typing import Any

from trtbuild.render.text import Document, add_line, add_row, new_console, new_table

SHOWN = 10


def pack(document: Document) -> None:
    console = new_console()
    what = f"{document['samples']} samples in {document['shards']} shards, {document['bytes'] / 1e6:.1f} MB"
    add_line(console, f"{document['path']}: {what}, from {document['kind']} in {document['source']}")


def check(document: Document) -> None:
    title = f"{document['folder']}: {document['samples']} samples in {document['shards']} shards"
    table = new_table(title, "input", "dtype", "shapes", "min", "max", "mean", "NaN", "Inf", numbers=5)
    for name, found in document["inputs"].items():
        shapes = _list([f"{each['samples']} x {tuple(each['shape'])}" for each in found["shapes"]])
        figures = ("-" if found[key] is None else f"{found[key]:.6g}" for key in ("min", "max", "mean"))
        add_row(table, name, found["dtype"], shapes, *figures, found["nan"], found["inf"])
    console = new_console()
    console.print(table)
    for flaw in _first(console, document["nonfinite"] + document["constant"], "NaN, Inf or constant"):
        add_line(console, f"{flaw['sample']}: input {flaw['input']}: {flaw['what']}")
    for group in _first(console, document["duplicates"], "groups of duplicates"):
        add_line(console, f"duplicates: {_list(group)}")
    console.print("[green]no flaws[/]" if document["passed"] else "[red]flawed[/]")


def compare(document: Document) -> None:
    a, b = document["samples"]["a"], document["samples"]["b"]
    table = new_table(
        f"{document['a']} ({a} samples), {document['b']} ({b}): worst of {len(document['tensors'])} tensors",
        *("tensor", "", "PSI", "by chance", "KL", "absmax of A", "of B beyond", ""),
        numbers=6,
    )
    for row in document["tensors"][:SHOWN]:
        figures = (f"{row[key]:.4g}" for key in ("psi", "by_chance", "kl", "absmax"))
        chance = "chance?" if row["psi"] > document["threshold"] else "ok"
        mark = "SHIFTED" if row["shifted"] else chance
        add_row(table, row["tensor"], row["kind"], *figures, f"{row['beyond']:.3%}", mark)
    console = new_console()
    console.print(table)
    if document["not_compared"]:
        add_line(console, f"not compared, since there are no values: {', '.join(document['not_compared'])}")
    above = [row for row in document["tensors"] if row["psi"] > document["threshold"]]
    shifted = sum(row["shifted"] for row in above)
    add_line(
        console, f"{shifted} tensors with a PSI above {document['threshold']:g} and above what chance does"
    )
    if len(above) > shifted:
        add_line(
            console, f"{len(above) - shifted} tensors may be above it by chance: compare more samples to tell"
        )
    console.print("[green]represents[/]" if document["passed"] else "[red]does not represent[/]")


def _first(console: Any, rows: list[Any], what: str) -> list[Any]:
    """The first few rows; when there are more, says how many."""
    if len(rows) > SHOWN:
        add_line(console, f"{len(rows)} {what}, the first {SHOWN}:")
    return rows[:SHOWN]


def _list(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more

"""The document as one HTML file that needs nothing else: no server, no network, no JavaScript to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from trtbuild.report import chart
from trtbuild.report.page import decibel, page
from trtbuild.report.rank import problem, sqnr

GENERATOR = '<meta name="generator" content="trtbuild'
FIGURES = {
    "sqnr_db": "SQNR, dB",
    "cosine": "cosine",
    "max_abs": "max abs",
    "max_rel": "max rel",
    "rmse": "RMSE",
    "kl": "KL, nats",
}
"""Of a difference, those that the tables show where any row has them."""
CLASSES = {"argmax_changed": "argmax changed"}
"""Of an output's class scores, likewise."""
BESIDE = {"own": "own SQNR, dB", "inherited": "inherited SQNR, dB", "noise": "noise SQNR, dB"}
"""Other differences of a row: what the layer itself adds, what it got, and what rounding alone makes."""
PRECISIONS = ("int8", "fp16", "bf16", "fp32")


def html(document: dict[str, Any]) -> str:
    """Everything in the page is escaped, and it requests nothing: see `page`."""
    layers = document["layers"]
    values = {
        "document": document,
        "generator": Markup(GENERATOR),
        "chart": chart.along(layers, document["diverged_below_db"]),
        "geometry": chart,
        "bars": chart.bars,
        "titles": {**FIGURES, **CLASSES, **BESIDE},
        "shown": _shown,
        "cells": _cells,
        "precisions": [name for name in PRECISIONS if any(row["precision"] == name for row in layers)],
        "problem": problem,
        "sqnr": sqnr,
        "diverged": [row for row in layers if _diverged(row, document["diverged_below_db"])],
        "is_diverged": _diverged,
    }
    return page("report.html.jinja", ("report.css",), "report.js", values)


def _diverged(row: Mapping[str, Any], limit: float) -> bool:
    return bool(row["difference"]) and sqnr(row["difference"]) < limit


def _shown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which columns of figures have anything in them."""
    keys = [key for key in (*FIGURES, *CLASSES) if any(_figure(row, key) is not None for row in rows)]
    return [*keys, *(key for key in BESIDE if any(row.get(key) for row in rows))]


def _cells(row: Mapping[str, Any], keys: Sequence[str]) -> list[tuple[str, str]]:
    """Of each column what it is sorted by, empty where there is nothing, and what it shows."""
    return [_cell(row, key) for key in keys]


def _cell(row: Mapping[str, Any], key: str) -> tuple[str, str]:
    found = row.get(key) if key in BESIDE else row["difference"]
    if found and (key in BESIDE or key == "sqnr_db"):
        value = sqnr(found)
        return repr(value).replace("inf", "Infinity"), decibel(value)
    figure = None if key in BESIDE else _figure(row, key)
    return ("", "–") if figure is None else (repr(figure), f"{figure:.{6 if key == 'cosine' else 4}g}")


def _figure(row: Mapping[str, Any], key: str) -> float | None:
    measured = row.get("classes") if key in CLASSES else row["difference"]
    return measured.get(key) if measured else None

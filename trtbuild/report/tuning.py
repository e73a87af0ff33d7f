"""The document of `tune` as one HTML file: the outcome, the front, the pins, all trials, the sensitivity.

The document's form is in tuning.schema.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

import trtbuild
from trtbuild.report import pareto, trials
from trtbuild.report.page import page
from trtbuild.tune.document import best_of
from trtbuild.tune.trial import OWN

GENERATOR = '<meta name="generator" content="tune, trtbuild'
FIGURES = {
    "alone": "alone",
    "activations": "activations only",
    "weights": "weights only",
    "reverted": "recipe but it",
}
"""Of a node's errors, as columns of noise-to-signal ratios."""
BESIDE = {"kl": "alone: KL, nats", "score": "alone: score"}
"""What else may be known of a node alone in int8."""


def html(document: Mapping[str, Any]) -> str:
    """Everything in the page is escaped, and it requests nothing: see `page`."""
    found = document["sensitivity"]
    nodes = found["nodes"] if found else []
    values = {
        "document": document,
        "generator": Markup(GENERATOR),
        "version": trtbuild.__version__,
        "best": best_of(document),
        "plot": pareto.of(document),
        "geometry": pareto,
        "own": OWN,
        "words": trials,
        "nodes": sorted(nodes, key=lambda node: node["rank"]),
        "figures": FIGURES,
        "beside": {key: title for key, title in BESIDE.items() if _known(nodes, key)},
        "certain": lambda node: trials.is_certain(found, node["ranks_of_halves"], len(nodes)),
        "sortable": _sortable,
    }
    return page("tune.html.jinja", ("report.css", "tune.css"), "report.js", values)


def _known(nodes: list[Mapping[str, Any]], key: str) -> bool:
    return any(node["alone"][key] is not None for node in nodes)


def _sortable(measure: Mapping[str, Any] | None) -> str:
    """What an error is sorted by; empty where it was not measured. Null stands for infinite."""
    if measure is None:
        return ""
    return "Infinity" if measure["nsr"] is None else repr(measure["nsr"])

"""What a search found, as the document that `tune --json` prints and as the tuned.toml that builds read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import trtbuild
from trtbuild.model.model import Model
from trtbuild.names import exactly
from trtbuild.recipe import Pin, Tuned
from trtbuild.recipe.tuned import Origin, Outcome, Setting
from trtbuild.tune.findings import Findings, Judged
from trtbuild.tune.latency import Latencies

Document = dict[str, Any]


@dataclass(frozen=True)
class Searched:
    """What was searched, and on what. samples, draw: how many; budget: share of the lowerable nodes; most:
    how many of them may be pinned; own: how many of them the recipe itself pins; golden: the metric's mean of
    the golden.
    """

    engine: str
    target: str
    model: Model
    samples: int
    draw: int
    seed: int
    metric: str | None
    golden: float
    max_drop: float | None
    lowerable: int
    own: int
    budget: float | None
    most: int
    latencies: Latencies | None = None
    given: tuple[str, ...] = ()


def compose(searched: Searched, findings: Findings, interrupted: bool) -> Document:
    """Everything in it but `written` is known here. Infinite figures become null."""
    best, front = _best(findings), findings.front()
    return {
        "engine": searched.engine,
        "target": searched.target,
        "model": {"path": str(searched.model.path.resolve()), "sha256": searched.model.sha256},
        "samples": {"gate": searched.samples, "draw": searched.draw, "seed": searched.seed},
        "metric": searched.metric,
        "golden": _finite(searched.golden) if searched.metric else None,
        "max_drop": searched.max_drop,
        "lowerable": searched.lowerable,
        "own_pins": searched.own,
        "budget": searched.budget,
        "most_pins": searched.most,
        "outcome": findings.outcome,
        "best": best.number,
        "interrupted": interrupted,
        "given": list(searched.given),
        "trials": [_trial(each, searched.lowerable, each.number in front) for each in findings.judged],
        "settings": [
            {**_setting(each.trial.setting), "error": _finite(each.error)}
            for each in sorted(findings.measured, key=lambda each: each.error)
        ],
        "pins": [_pin(best, node, findings, searched) for node in best.trial.pins],
        "sensitivity": findings.sensitivity.to_dict() if findings.sensitivity else None,
        "engines": [asdict(each) for each in findings.engines],
        "written": None,
    }


def best_of(document: Mapping[str, Any]) -> Document:
    """Of its trials the one that was chosen."""
    return next(trial for trial in document["trials"] if trial["number"] == document["best"])


def tuned_of(document: Document) -> Tuned:
    """What builds are to do, as the best trial did it."""
    best = best_of(document)
    outcome: Outcome = "interrupted" if document["interrupted"] else document["outcome"]
    return Tuned(
        tuned=Origin(model=document["model"]["sha256"], trtbuild=trtbuild.__version__, outcome=outcome),
        calibration=Setting(
            method=best["method"], equalize=best["equalize"], bias_correction=best["bias_correction"]
        ),
        pin=tuple(Pin(name=exactly(pin["node"]), reason=pin["reason"]) for pin in document["pins"]),
    )


def comment_of(document: Document) -> Iterator[str]:
    """The lines at the head of tuned.toml."""
    best, samples = best_of(document), document["samples"]
    pinned = f"{best['pinned']} of {document['lowerable']} nodes pinned"
    yield f"Written by trtbuild tune: {best['label']}, {pinned}."
    name, figure = _figure_name(document["metric"]), _shown(best["figure"], best["passed"])
    golden = "" if document["golden"] is None else f", golden {document['golden']:.4f}"
    interval = " (95 %: {:.4f} to {:.4f})".format(*best["interval"]) if best["interval"] else ""
    drop = "" if best["drop"] is None else f", drop {best['drop']:.4f}{interval}"
    yield f"{name} {figure}{golden}{drop} on {samples['gate']} validation samples; seed {samples['seed']}."
    yield "The recipe's own pins go before these; its method and repairs do not."
    yield "Builds without it: --set tuned=false."
    if document["given"]:
        yield f"Found with {' '.join(document['given'])}: builds need the same."


def _best(findings: Findings) -> Judged:
    assert findings.best is not None, "nothing was judged"
    return findings.best


def _trial(found: Judged, lowerable: int, front: bool) -> Document:
    judgement = found.judgement
    return {
        "number": found.number,
        **_setting(found.trial.setting),
        "pins": list(found.trial.pins),
        "pinned": found.pinned,
        "share": found.pinned / lowerable,
        "error": _finite(found.error),
        "figure": _finite(judgement.figure),
        "drop": judgement.drop,
        "interval": list(judgement.interval) if judgement.interval else None,
        "passed": judgement.passed,
        "margin": judgement.margin,
        "failing": list(judgement.failing),
        "why": found.why,
        "front": front,
    }


def _setting(setting: Setting) -> Document:
    return {**setting.model_dump(), "label": str(setting)}


def _pin(best: Judged, node: str, findings: Findings, searched: Searched) -> Document:
    """One pin of the best trial, and what it buys: the trial without it, where the search got that far."""
    without = findings.of(best.trial.without(node))
    name = _figure_name(searched.metric)
    reason = f"tune: typical error {best.error:.3g}"
    if without is not None:
        figure, other = (_shown(_finite(each.judgement.figure)) for each in (best, without))
        reason = f"{reason}, without it {without.error:.3g}; {name} {figure}, without it {other}"
    return {
        "node": node,
        "op_type": next(each.op_type for each in searched.model.graph if each.name == node),
        "error": _finite(best.error),
        "error_without": _finite(without.error) if without else None,
        "figure": _finite(best.judgement.figure),
        "figure_without": _finite(without.judgement.figure) if without else None,
        "latency_ms": searched.latencies.cost_of([node]) if searched.latencies else None,
        "reason": reason,
    }


def _figure_name(metric: str | None) -> str:
    return metric.rpartition(":")[2] if metric else "SQNR of the outputs, dB"


def _shown(figure: float | None, passed: bool = False) -> str:
    """An infinite SQNR, of outputs that are equal, passes; one of outputs that cannot be compared does
    not."""
    if figure is None:
        return "infinite" if passed else "-"
    return f"{figure:.4f}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

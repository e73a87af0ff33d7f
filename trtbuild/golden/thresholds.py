"""The recipe's thresholds on tensors: those of outputs, and where asked for those of layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from trtbuild.errors import InputError
from trtbuild.golden.differ import TensorDiff
from trtbuild.golden.metric_file import Metric
from trtbuild.golden.scores import ROUNDING
from trtbuild.golden.scoring import Baseline
from trtbuild.golden.verdict import Check
from trtbuild.names import nearest
from trtbuild.recipe import OutputThresholds, Thresholds, ValidationSection

FIGURES = {"cosine": "cosine", "sqnr_db": "SQNR, dB", "max_abs": "max abs"}
"""Figure of a difference -> what it is called."""
AT_LEAST = ("cosine", "sqnr_db")


def check_asked(
    section: ValidationSection, outputs: Iterable[str], metric: Metric | None, baseline: Baseline | None
) -> None:
    """Raise InputError for a `[validation.output]` of none of the model's outputs, and for a baseline where
    there is no metric to compare it by."""
    if baseline is not None and metric is None:
        raise InputError(
            f"baseline {baseline.build} is compared by the task metric, and there is none; "
            "give validation.metric, labels and max_drop in the recipe"
        )
    known = list(dict.fromkeys(outputs))
    for name in section.output:
        if name not in known:
            near = nearest(name, known) or f"; it has {', '.join(known[:3])}"
            raise InputError(f"[validation.output] {name!r}: the model has no such output{near}")


def output_checks(
    outputs: Sequence[TensorDiff], section: ValidationSection, default: OutputThresholds
) -> Iterator[Check]:
    """A check per output and threshold; `default` where the recipe has none for an output. An output that
    the recipe names and that was not compared fails."""
    for diff in outputs:
        thresholds = section.thresholds_of(diff.tensor)
        if not thresholds.model_fields_set:
            thresholds = default
        for figure, limit in _figures(thresholds):
            yield _check(f"{diff.tensor} {FIGURES[figure]}", figure, _figure(diff, figure), limit)
        if thresholds.argmax_agreement is not None:
            yield _agreement(diff, thresholds.argmax_agreement, section.class_axis_of(diff.tensor))
    compared = {diff.tensor for diff in outputs}
    for name in section.output:
        if name not in compared:
            yield Check(f"{name} of [validation.output]", False, "not compared", "compared")


def layer_checks(layers: Sequence[TensorDiff] | None, thresholds: Thresholds) -> Iterator[Check]:
    """A check per layer and threshold that does not hold; one per threshold that holds for all.

    layers: None where the golden is a stored one: then thresholds on them fail. A layer without a finite
    value is not held to any.
    """
    for figure, limit in _figures(thresholds):
        name = f"layers, {FIGURES[figure]}"
        held_to = [diff for diff in layers or () if diff.difference is None or diff.difference.count]
        if not held_to:
            why = "not compared: a stored golden has none" if layers is None else "no values in any"
            yield Check(name, False, why, _wanted(figure, limit))
            continue
        failed = [diff for diff in held_to if not _holds(figure, _figure(diff, figure), limit)]
        for diff in failed:
            check = _check(f"layer {diff.tensor} {FIGURES[figure]}", figure, _figure(diff, figure), limit)
            yield replace(check, seen=f"{check.seen}, node {diff.node or '-'}")
        if not failed:
            pick = min if figure in AT_LEAST else max
            worst = pick(held_to, key=lambda diff: getattr(diff.difference, figure))
            check = _check(name, figure, _figure(worst, figure), limit)
            yield replace(check, seen=f"{check.seen} at worst, {worst.tensor}")


def _figures(thresholds: Thresholds) -> Iterator[tuple[str, float]]:
    """Those that are given, of the figures of a difference."""
    for figure in FIGURES:
        limit = getattr(thresholds, figure)
        if limit is not None:
            yield figure, limit


def _figure(diff: TensorDiff, figure: str) -> float | None:
    return getattr(diff.difference, figure) if diff.difference else None


def _check(name: str, figure: str, seen: float | None, limit: float) -> Check:
    shown = "not compared" if seen is None else f"{seen:.6g}"
    return Check(name, _holds(figure, seen, limit), shown, _wanted(figure, limit))


def _holds(figure: str, seen: float | None, limit: float) -> bool:
    """Written so that NaN fails."""
    return seen is not None and (seen >= limit if figure in AT_LEAST else seen <= limit)


def _wanted(figure: str, limit: float) -> str:
    return f"{'>=' if figure in AT_LEAST else '<='} {limit:g}"


def _agreement(diff: TensorDiff, limit: float, axis: int) -> Check:
    found = diff.classes
    if found is None:
        lacking = f"no class scores: they are floats, several along axis {axis}"
        seen, passed = "not compared" if diff.difference is None else lacking, False
    else:
        seen = f"{1 - found.argmax_changed:.6g} of {found.rows} rows"
        passed = found.argmax_changed <= 1 - limit + ROUNDING
    return Check(f"{diff.tensor} argmax agreement", passed, seen, f">= {limit:g}")

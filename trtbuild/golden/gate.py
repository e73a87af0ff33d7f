"""The gate: what was measured against what the recipe demands -> Verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trtbuild.golden.differ import TensorDiff
from trtbuild.recipe import OutputThresholds

DEFAULT_THRESHOLDS = OutputThresholds(cosine=0.99, sqnr_db=15.0)  # cosine alone is blind to scale
"""Used where a recipe names neither output thresholds nor a metric: a gate never passes by having none."""
DIVERGED_DB = 20.0
"""A layer has diverged when its error is above 1 % of its power."""

ROUNDING = 1e-9
"""Means of floats: a drop of exactly `max_drop` must pass."""


@dataclass(frozen=True)
class Check:
    """One line of the verdict."""

    name: str
    passed: bool
    seen: str
    wanted: str


@dataclass(frozen=True)
class MetricScores:
    """Mean of the task metric over the same samples on both sides."""

    name: str
    samples: int
    golden: float
    candidate: float
    max_drop: float

    @property
    def drop(self) -> float:
        return self.golden - self.candidate


@dataclass(frozen=True)
class Verdict:
    """`passed` only if every check did. `first_divergence` is the first layer, in graph order, whose
    SQNR is below 20 dB: where to look first. `not_checked`: node or tensor -> why."""

    passed: bool
    checks: tuple[Check, ...]
    metric: MetricScores | None
    outputs: tuple[TensorDiff, ...]
    layers: tuple[TensorDiff, ...]
    first_divergence: str | None
    not_checked: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        metric = {**asdict(self.metric), "drop": self.metric.drop} if self.metric else None
        return {
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "metric": metric,
            "outputs": [diff.to_dict() for diff in self.outputs],
            "layers": [diff.to_dict() for diff in self.layers],
            "first_divergence": self.first_divergence,
            "not_checked": self.not_checked,
        }


def judge(
    also: Sequence[Check],
    layers: Sequence[TensorDiff] | None,
    outputs: Sequence[TensorDiff],
    metric: MetricScores | None,
    thresholds: OutputThresholds,
    not_checked: Mapping[str, str],
) -> Verdict:
    """Weigh everything that was measured, and `also` these checks.

    Always: every tensor was compared, and there were layers and outputs; the candidate has NaN
    and Inf only where the golden has the same, and no output has any. Then the output thresholds, and the
    metric if there is one. `layers` is None where the golden is a stored one: it has no layers to compare.
    """
    if not thresholds.model_fields_set and metric is None:
        thresholds = DEFAULT_THRESHOLDS
    coverage = _coverage(layers, outputs)
    layers = layers or ()
    checks = [*also, coverage, _finite(layers, outputs), *_outputs(outputs, thresholds)]
    if metric is not None:
        checks.append(
            Check(
                f"metric {metric.name}",
                metric.drop <= metric.max_drop + ROUNDING,
                f"{metric.candidate:.4f}, golden {metric.golden:.4f}, drop {metric.drop:.4f}",
                f"drop <= {metric.max_drop:g}",
            )
        )
    diverged = (d.tensor for d in layers if d.difference and d.difference.sqnr_db < DIVERGED_DB)
    return Verdict(
        passed=all(check.passed for check in checks),
        checks=tuple(checks),
        metric=metric,
        outputs=tuple(outputs),
        layers=tuple(layers),
        first_divergence=next(diverged, None),
        not_checked=dict(not_checked),
    )


def _coverage(layers: Sequence[TensorDiff] | None, outputs: Sequence[TensorDiff]) -> Check:
    """Inside, a tensor may be empty in every sample; an output without a value was not compared."""
    diffs = [*(layers or ()), *outputs]
    missing = [f"{diff.tensor}: {diff.problem}" for diff in diffs if diff.difference is None]
    missing += [f"{diff.tensor}: no values in any sample" for diff in outputs if _is_empty(diff)]
    missing += ["no layers"] if layers is not None and not layers else []
    missing += [] if outputs else ["no outputs"]
    seen = f"{max(0, len(diffs) - len(missing))} of {len(diffs)}"
    seen += "; outputs only (stored golden)" if layers is None else ""
    seen += f"; {'; '.join(missing[:3])}" if missing else ""
    return Check("every tensor compared", not missing, seen, "all")


def _is_empty(diff: TensorDiff) -> bool:
    found = diff.difference
    return found is not None and not (found.count + found.nonfinite_golden + found.nonfinite_candidate)


def _finite(layers: Sequence[TensorDiff], outputs: Sequence[TensorDiff]) -> Check:
    """Inside, a mask of -inf is legitimate where the golden has it too; an output must be finite."""
    bad = [diff.tensor for diff in layers if diff.difference and diff.difference.nonfinite_unmatched]
    bad += [
        diff.tensor
        for diff in outputs
        if diff.difference and (diff.difference.nonfinite_candidate or diff.difference.nonfinite_golden)
    ]
    names = list(dict.fromkeys(bad))
    return Check("no NaN or Inf", not names, ", ".join(names[:3]) or "none", "none that the golden lacks")


def _outputs(outputs: Sequence[TensorDiff], thresholds: OutputThresholds) -> list[Check]:
    checks = []
    for diff in outputs:
        found = diff.difference
        if thresholds.cosine is not None:
            seen = found.cosine if found else None
            checks.append(_at_least(f"{diff.tensor} cosine", seen, thresholds.cosine))
        if thresholds.sqnr_db is not None:
            seen = found.sqnr_db if found else None
            checks.append(_at_least(f"{diff.tensor} SQNR, dB", seen, thresholds.sqnr_db))
        if thresholds.max_abs is not None:
            passed = found is not None and found.max_abs <= thresholds.max_abs
            shown = f"{found.max_abs:.4g}" if found else "not compared"
            checks.append(Check(f"{diff.tensor} max abs", passed, shown, f"<= {thresholds.max_abs:g}"))
    return checks


def _at_least(name: str, seen: float | None, limit: float) -> Check:
    """Written so that NaN fails."""
    return Check(
        name,
        seen is not None and seen >= limit,
        "not compared" if seen is None else f"{seen:.6g}",
        f">= {limit:g}",
    )

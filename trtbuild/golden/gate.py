"""The gate: what was measured against what the recipe demands -> Verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from trtbuild.golden import coverage
from trtbuild.golden.differ import TensorDiff
from trtbuild.golden.scores import MOST, ROUNDING, BaselineScores, MetricScores, Paired
from trtbuild.golden.thresholds import layer_checks, output_checks
from trtbuild.golden.verdict import Check, Verdict
from trtbuild.recipe import OutputThresholds, ValidationSection

DEFAULT_THRESHOLDS = OutputThresholds(cosine=0.99, sqnr_db=15.0)  # cosine alone is blind to scale
"""Of an output without thresholds, where there is no metric either: a gate never passes by having none."""
DIVERGED_DB = 20.0
"""A layer has diverged when its error is above 1 % of its power."""


def judge(
    also: Sequence[Check],
    layers: Sequence[TensorDiff] | None,
    outputs: Sequence[TensorDiff],
    metric: MetricScores | None,
    section: ValidationSection,
    not_checked: Mapping[str, str],
) -> Verdict:
    """Weigh everything that was measured, and `also` these checks.

    Always: every tensor was compared, and there were layers and outputs; the candidate has NaN
    and Inf only where the golden has the same, and no output has any. Then the thresholds of outputs and
    layers, and the metric if there is one. `layers` is None where the golden is a stored one: it has no
    layers to compare.
    """
    default = DEFAULT_THRESHOLDS if metric is None else OutputThresholds()
    checks = [
        *also,
        coverage.compared(layers, outputs),
        coverage.finite(layers or (), outputs),
        *output_checks(outputs, section, default),
        *layer_checks(layers, section.layers),
        *(_metric_checks(metric, section.max_ece_rise) if metric else ()),
    ]
    diverged = (d.tensor for d in layers or () if d.difference and d.difference.sqnr_db < DIVERGED_DB)
    return Verdict(
        passed=all(check.passed for check in checks),
        checks=tuple(checks),
        metric=metric,
        outputs=tuple(outputs),
        layers=tuple(layers or ()),
        first_divergence=next(diverged, None),
        not_checked=dict(not_checked),
    )


def _metric_checks(metric: MetricScores, max_ece_rise: float | None) -> Iterator[Check]:
    """Against the golden the mean decides, with the interval beside it; against a baseline the interval."""
    yield Check(
        f"metric {metric.name}",
        metric.drop <= metric.max_drop + ROUNDING,
        f"{metric.candidate:.4f}, golden {metric.golden:.4f}, {_drop(metric.paired)}",
        f"drop <= {metric.max_drop:g}",
    )
    if metric.baseline is not None:
        yield _baseline(metric.name, metric.candidate, metric.baseline)
    if max_ece_rise is not None:
        found = metric.ece
        seen = f"{found.candidate:.4f}, golden {found.golden:.4f}, rise {found.rise:.4f}" if found else "none"
        passed = found is not None and found.rise <= max_ece_rise + ROUNDING
        yield Check(f"calibration error of {metric.name}", passed, seen, f"rise <= {max_ece_rise:g}")


def _baseline(name: str, candidate: float, baseline: BaselineScores) -> Check:
    """Not worse than production by more than the tolerance, noise of the samples allowed for."""
    paired, tolerance = baseline.paired, baseline.tolerance
    found = paired.against(tolerance)
    seen = f"{candidate:.4f}, baseline {baseline.mean:.4f}, {_drop(paired)}: {found}"
    if found == "undecided":
        needed = paired.samples_needed(tolerance)
        if needed is not None:
            seen += f", about {needed} samples would decide" if needed < MOST else ", a million would not"
        elif paired.samples == 1:
            seen += ", one sample tells nothing of the others"
        else:
            seen += ", and at this drop no number of samples will pass"
    return Check(
        f"metric {name} against {baseline.build}",
        found == "not worse",
        seen,
        f"drop <= {tolerance:g}, at 95 % confidence",
    )


def _drop(paired: Paired) -> str:
    interval = " (95 %: {:.4f} to {:.4f})".format(*paired.interval) if paired.interval else ""
    return f"drop {paired.drop:.4f}{interval}"

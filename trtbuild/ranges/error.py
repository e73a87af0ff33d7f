"""How far a quantized model's outputs are from the float model's."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtbuild.targets.session import Tensors

_EXACT = 1e-12
"""Errors below are the noise of float32 arithmetic."""
_WORST = 1e9
_LARGE = math.log(1 / 0.8)
_ENOUGH = 4  # samples to tell a spread by


def error(outputs: Tensors, reference: Tensors) -> float:
    """The mean over `outputs` of what each lost, 0 or larger; Inf where one has a NaN or an Inf of its own.

    A float output lost ||y - y_ref||^2 / ||y_ref||^2 (the noise-to-signal ratio); another one, or one that is
    zero throughout, the share of its elements that differ; one of another shape everything, 1.
    """
    return float(np.mean([_lost(array, reference[name]) for name, array in outputs.items()]))


def typical(errors: Sequence[float]) -> float:
    """The geometric mean of the errors on single samples.

    Where a model decides (an argmax, a threshold, the characters of a line), a sample near the border flips
    at any noise and then counts a thousand times what the others do: a plain mean would choose by chance.
    """
    return math.exp(statistics.fmean(_logarithms(errors)))


def harm(errors: Sequence[float]) -> float:
    """The typical error, in which an infinite one counts as _WORST: of two, the one with fewer is less."""
    return typical([min(each, _WORST) for each in errors])


def clearly_less(errors: Sequence[float], others: Sequence[float]) -> bool:
    """Whether the errors are typically less than the others on the same samples, and not by chance: by a
    fifth at least, or (from four samples on) by twice the standard error of the logarithms' mean difference.
    """
    if not math.isfinite(typical(errors)) or not math.isfinite(typical(others)):
        return math.isfinite(typical(errors))
    gains = [other - own for own, other in zip(_logarithms(errors), _logarithms(others), strict=True)]
    gain = statistics.fmean(gains)
    if gain > _LARGE or len(gains) < _ENOUGH:
        return gain > _LARGE
    return gain > 2 * statistics.stdev(gains) / math.sqrt(len(gains))


def _logarithms(errors: Sequence[float]) -> list[float]:
    return [math.log(max(error, _EXACT)) for error in errors]


def _lost(array: NDArray[Any], reference: NDArray[Any]) -> float:
    if array.shape != reference.shape:
        return 1.0
    if not array.size:
        return 0.0
    if not np.issubdtype(reference.dtype, np.floating):
        return float(np.mean(array != reference))
    power, noise = _powers(array, reference)
    if not math.isfinite(power + noise):
        counts = np.isfinite(reference)  # a mask of -Inf is no signal
        power, noise = _powers(array[counts], reference[counts])
    if not math.isfinite(noise):
        return math.inf
    return noise / power if power else float(np.mean(array != reference))


def _powers(array: NDArray[Any], reference: NDArray[Any]) -> tuple[float, float]:
    """The sums of squares of the reference and of the error, in float64; the same bits every time, as those
    of a BLAS need not be."""
    expected = reference.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = array.astype(np.float64) - expected
        return float(np.square(expected, out=expected).sum()), float(
            np.square(difference, out=difference).sum()
        )

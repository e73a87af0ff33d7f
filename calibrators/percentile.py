"""The range that clips a fixed share of the values."""

from __future__ import annotations

import numpy as np

from calibrators.errors import CalibratorError
from calibrators.histogram import Histogram

DEFAULT_PERCENTILE = 99.99


def amax(histogram: Histogram, percentile: float = DEFAULT_PERCENTILE) -> float:
    """Return the magnitude that ``percentile`` % of all |x| do not exceed, zeros included.

    Where that magnitude is zero or below float32's normal numbers (a tensor that is nearly all zeros,
    such as a one-hot input), clipping there would erase the tensor: absmax is returned.

    percentile: above 0, at most 100. Raises CalibratorError outside of that.
    """
    if not 0 < percentile <= 100:
        raise CalibratorError(f"percentile {percentile}: expected a number above 0 and at most 100")
    magnitude = histogram.quantile(percentile / 100)
    return magnitude if magnitude >= np.finfo(np.float32).tiny else histogram.absmax

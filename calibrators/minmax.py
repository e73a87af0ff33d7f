"""The range that clips nothing."""

from calibrators.histogram import Histogram


def amax(histogram: Histogram) -> float:
    """Return the largest magnitude seen."""
    return histogram.absmax

"""Which way to take a range from a histogram, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from calibrators import entropy, minmax, mse, percentile
from calibrators.errors import CalibratorError
from calibrators.histogram import Histogram

Kind = Literal["minmax", "percentile", "entropy", "mse"]
_OPTIONS = "minmax, entropy, mse, percentile (= percentile:99.99) or percentile:P with 0 < P <= 100"


@dataclass(frozen=True)
class Method:
    """percentile: above 0, at most 100; given for the kind "percentile" and for no other.

    Raises CalibratorError, listing the options, for anything else.
    """

    kind: Kind
    percentile: float | None = None

    def __post_init__(self) -> None:
        wants_percentile = self.kind == "percentile"
        if self.kind not in get_args(Kind) or wants_percentile != (self.percentile is not None):
            raise _unknown(str(self))
        if self.percentile is not None and not 0 < self.percentile <= 100:
            raise _unknown(str(self))

    @classmethod
    def parse(cls, text: str) -> Method:
        """Return the method that a text such as "entropy" or "percentile:99.9" names.

        Raises CalibratorError, listing the options, when it names none.
        """
        if text == "percentile":
            return cls("percentile", percentile.DEFAULT_PERCENTILE)
        for kind in get_args(Kind):
            if text == kind:
                return cls(kind)
        kind, _, share = text.partition(":")
        if kind != "percentile":
            raise _unknown(text)
        try:
            return cls("percentile", float(share))
        except ValueError:
            raise _unknown(text) from None

    def __str__(self) -> str:
        """Return the text that ``parse`` turns back into this method."""
        return self.kind if self.percentile is None else f"{self.kind}:{self.percentile}"


def amax(histogram: Histogram, method: Method) -> float:
    """Return the amax of a histogram by a method.

    Raises CalibratorError when nothing was counted or when NaN or Inf were among the values: no range
    made from the rest would be the tensor's.
    """
    if histogram.nonfinite:
        raise CalibratorError(
            f"{histogram.nonfinite} of {histogram.nonfinite + histogram.count} values are NaN or Inf: "
            "no range can be taken; mend the model or the samples that make them"
        )
    if not histogram.count:
        raise CalibratorError("no values were counted: no range can be taken; feed at least one sample")
    if method.percentile is not None:
        return percentile.amax(histogram, method.percentile)
    return {"minmax": minmax.amax, "entropy": entropy.amax, "mse": mse.amax}[method.kind](histogram)


def _unknown(text: str) -> CalibratorError:
    return CalibratorError(f"calibration method {text!r} is not known; expected {_OPTIONS}")

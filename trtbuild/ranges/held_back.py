"""The choices of single tensors, judged together on samples that did not choose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trtbuild.model.model import Model
from trtbuild.ranges.choose import Choice
from trtbuild.ranges.whole import Ranges, whole_error
from trtbuild.targets.session import Tensors


@dataclass(frozen=True)
class Verdict:
    """ranges: of all tensors. kept: how many of them are choices. error: theirs on the held-back samples, and
    min-max's; equal where no choice is left."""

    ranges: Ranges
    kept: int
    error: float
    minmax_error: float


def never_worse(
    model: Model,
    minmax: Ranges,
    choices: Mapping[str, Choice],
    feeds: Sequence[Tensors],
    reference: Sequence[Tensors],
) -> Verdict:
    """As many of the choices as are together no worse than `minmax` on these samples: all of them, or the
    half that gains most alone, or half of those, and so on.

    minmax: of every tensor that is quantized; where the recipe gives a tensor another method, that range.
    """
    floor = whole_error(model, minmax, feeds, reference)
    kept = sorted(choices, key=lambda tensor: choices[tensor].gain, reverse=True)
    while kept:
        ranges = {**minmax, **{tensor: choices[tensor].range for tensor in kept}}
        seen = whole_error(model, ranges, feeds, reference)
        if seen <= floor and math.isfinite(seen):
            return Verdict(ranges, len(kept), seen, floor)
        kept = kept[: len(kept) // 2]
    return Verdict(minmax, 0, floor, floor)

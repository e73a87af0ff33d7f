"""The float model's outputs on the samples that the search looks at, and how far others are from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrators.shards import Batch, ShardSet
from trtbuild.errors import InputError
from trtbuild.golden.classes import SUM_TOLERANCE, TINY
from trtbuild.model.model import Model
from trtbuild.progress import say, track
from trtbuild.ranges.error import error
from trtbuild.ranges.judged import array_outputs, judged_outputs
from trtbuild.rewrite.cut import with_outputs
from trtbuild.targets.session import Tensors, infer, runner

HELD_BYTES = 2e9
"""What all expected outputs may take, about: fewer samples where they would take more."""
_NEGLIGIBLE = 1e-9
"""Classes with less probability than this in the golden are left out of the KL divergence."""


@dataclass(frozen=True)
class Expected:
    """What the float model makes of one feed. judged: for the error. classes: output -> its class scores."""

    judged: Tensors
    classes: Mapping[str, _Classes]


class Reference:
    """feeds: of one sample each; of as many as the model's batch where that is fixed. judged: the tensors by
    which an error is told (see `judged_outputs`). outputs: those of the model that have class scores.
    """

    def __init__(
        self,
        feeds: Sequence[Batch],
        judged: Sequence[str],
        outputs: Sequence[str],
        expected: Sequence[Expected],
    ) -> None:
        self.feeds, self.judged, self.outputs = tuple(feeds), tuple(judged), tuple(outputs)
        self.tensors = tuple(dict.fromkeys([*self.judged, *self.outputs]))
        self._expected = tuple(expected)

    @classmethod
    def of(cls, model: Model, shards: ShardSet, class_axes: Mapping[str, int]) -> Reference:
        """Run all samples of `shards` through the float model. class_axes: of the outputs that have classes.

        Raises InputError when a sample cannot be run, and for a model none of whose outputs can be compared.
        """
        judged = judged_outputs(model)
        if not judged:
            raise InputError(f"{model.path}: no output can be compared, so there is nothing to judge pins by")
        outputs = [name for name in array_outputs(model) if name in class_axes]
        feeds, expected, held = [], [], 0
        shown = with_outputs(model.normalised, [*dict.fromkeys([*judged, *outputs])], cut=True)
        with runner(shown, "golden") as active:
            for item in track(shards.batches(1), "golden, samples", shards.samples, lambda b: len(b.names)):
                seen = infer(active, item.feeds, item.label)
                classes = {name: _Classes.of(seen[name], class_axes[name]) for name in outputs}
                known = {name: found for name, found in classes.items() if found is not None}
                feeds.append(item)
                expected.append(Expected({name: seen[name] for name in judged}, known))
                held += sum(array.nbytes for array in seen.values())
                if held > HELD_BYTES:
                    say(f"note: {len(feeds)} samples have outputs of {held / 1e9:.1f} GB: no more are drawn")
                    break
        return cls(feeds, judged, outputs, expected)

    @property
    def samples(self) -> int:
        return sum(len(item.names) for item in self.feeds)

    def first(self, count: int) -> Reference:
        """Of the first feeds alone."""
        return Reference(self.feeds[:count], self.judged, self.outputs, self._expected[:count])

    def nsr(self, index: int, seen: Tensors) -> float:
        """The noise-to-signal ratio of what was seen of feed `index`, mean over `judged`; see `error`."""
        return error({name: seen[name] for name in self.judged}, self._expected[index].judged)

    def kl(self, index: int, seen: Tensors) -> float | None:
        """The KL divergence of the class scores, golden against seen, in nats: mean over rows, and outputs.
        None where no output has any."""
        found = [classes.divergence(seen[name]) for name, classes in self._expected[index].classes.items()]
        return float(np.mean(found)) if found else None


@dataclass(frozen=True)
class _Classes:
    """Rows of class scores of the golden: of each the classes that count, as positions in the flat array of
    shape (rows, classes), their probabilities, and the row that each is of."""

    axis: int
    shape: tuple[int, ...]
    positions: NDArray[np.int64]
    shares: NDArray[np.float64]
    rows: NDArray[np.int64]
    probabilities: bool

    @classmethod
    def of(cls, scores: NDArray[Any], axis: int) -> _Classes | None:
        """None where the array has no such axis, no two classes, or no finite floats."""
        has_axis = -scores.ndim <= axis < scores.ndim
        if not has_axis or not np.issubdtype(scores.dtype, np.floating) or not scores.size:
            return None
        rows = _rows(scores, axis)
        if rows.shape[1] < 2 or not np.isfinite(rows).all():
            return None
        sums = rows.sum(axis=1)
        probabilities = bool((rows >= 0).all() and (abs(sums - 1) <= SUM_TOLERANCE).all())
        shares = rows / sums[:, None] if probabilities else np.exp(rows - _log_sum(rows)[:, None])
        row, column = np.nonzero(shares > _NEGLIGIBLE)
        positions = row * rows.shape[1] + column
        return cls(axis, scores.shape, positions, shares[row, column], row, probabilities)

    def divergence(self, scores: NDArray[Any]) -> float:
        if scores.shape != self.shape or not np.isfinite(scores).all():
            return float("inf")
        rows = _rows(scores, self.axis)
        rows = np.maximum(rows, TINY) if self.probabilities else rows
        totals = np.log(rows.sum(axis=1)) if self.probabilities else _log_sum(rows)
        chosen = rows.reshape(-1)[self.positions]
        logarithms = np.log(chosen) if self.probabilities else chosen
        terms = self.shares * (np.log(self.shares) - logarithms + totals[self.rows])
        return max(0.0, float(terms.sum()) / len(rows))


def _rows(scores: NDArray[Any], axis: int) -> NDArray[np.float64]:
    """Shape (rows, classes)."""
    last = np.moveaxis(scores, axis, -1)
    return np.asarray(last, np.float64).reshape(-1, last.shape[-1])


def _log_sum(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(sum(exp)) of each row."""
    largest = rows.max(axis=1)
    return np.asarray(largest + np.log(np.exp(rows - largest[:, None]).sum(axis=1)))

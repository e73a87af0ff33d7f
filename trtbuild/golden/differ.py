"""The difference of each tensor between two sides, accumulated sample by sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from trtbuild.golden.classes import ClassDifference
from trtbuild.golden.metrics import Comparison, Difference, Histogram, incomparable
from trtbuild.model.model import Model
from trtbuild.precision.map import PrecisionMap
from trtbuild.targets.session import Tensors


@dataclass(frozen=True)
class TensorDiff:
    """One tensor of the golden against the candidate's, and the node that makes it.

    `problem` says why there is no difference to show: the candidate lacks the tensor, or has
    another shape. Without `difference` a tensor was not compared, and the gate fails. `classes`: of an
    output with class scores. `own`, `inherited`, `noise`: see `attribution.Attribution`.
    """

    tensor: str
    node: str
    op_type: str
    precision: str
    difference: Difference | None
    problem: str | None
    histogram: Histogram | None = None
    classes: ClassDifference | None = None
    own: Difference | None = None
    inherited: Difference | None = None
    noise: Difference | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the histogram, which is large."""
        fields = {name: value for name, value in vars(self).items() if name != "histogram"}
        measured = {name: fields[name] for name in ("difference", "classes", "own", "inherited", "noise")}
        return {**fields, **{name: found.to_dict() if found else None for name, found in measured.items()}}


class Differ:
    """Accumulates the differences of a fixed list of tensors, sample by sample."""

    def __init__(self, tensors: Sequence[str]) -> None:
        self._comparisons = {tensor: Comparison() for tensor in tensors}
        self._problems: dict[str, str] = {}

    def update(self, sample: str, golden: Tensors, candidate: Tensors, pool: Executor | None = None) -> None:
        """Add one sample; with `pool`, on its threads."""

        def one(tensor: str) -> str | None:
            problem = _problem(tensor, golden, candidate)
            if problem is None:
                self._comparisons[tensor].update(golden[tensor], candidate[tensor])
            return problem

        problems = (pool.map if pool else map)(one, self._comparisons)
        for tensor, problem in zip(self._comparisons, problems, strict=True):
            if problem is not None:
                self._problems.setdefault(tensor, f"{problem} (sample {sample})")

    def leave_out(self, tensors: Iterable[str]) -> None:
        """Forget tensors of the list: they are not compared, and no failure."""
        for tensor in tensors:
            del self._comparisons[tensor]

    @property
    def complete(self) -> bool:
        """Whether every tensor could be compared so far."""
        return not self._problems

    def results(self, model: Model, precisions: PrecisionMap) -> list[TensorDiff]:
        """One entry per tensor, in the order given; none is left out."""
        makers = {value.name: node for node in model.graph for value in node.outputs}
        results = []
        for tensor, comparison in self._comparisons.items():
            node, problem = makers.get(tensor), self._problems.get(tensor)
            name, op_type = (str(node.name), node.op_type) if node else ("", "input")
            precision = precisions[name] if node else "fp32"
            difference = None if problem else comparison.result()
            histogram = None if problem else comparison.histogram()
            results.append(TensorDiff(tensor, name, op_type, precision, difference, problem, histogram))
        return results


def _problem(tensor: str, golden: Tensors, candidate: Tensors) -> str | None:
    if tensor not in golden:
        return "the golden does not have this tensor"
    if tensor not in candidate:
        return "the candidate does not have this tensor"
    return incomparable(golden[tensor], candidate[tensor])

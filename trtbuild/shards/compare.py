"""`shards compare`: does a calibration set represent live traffic?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrators import drift
from calibrators.drift import SignedHistogram, bin_counts
from calibrators.shards import ShardSet
from trtbuild.collect.forward import activations
from trtbuild.engine import Engine
from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.progress import track
from trtbuild.rewrite.explicit import ranges_needed
from trtbuild.tables import open_shards
from trtbuild.targets.session import Tensors


@dataclass(frozen=True)
class Shift:
    """One tensor in A and B. beyond: the share of B's values whose magnitude is above A's absmax, which
    min-max ranges of A clip. by_chance: what `psi` could be without any difference."""

    tensor: str
    kind: str
    psi: float
    kl: float
    by_chance: float
    absmax: float
    beyond: float

    def shifted(self, threshold: float) -> bool:
        """Whether `psi` is above the threshold and above what chance can do."""
        return self.psi > max(threshold, self.by_chance)


def compare(a: Path, b: Path, engine: Engine, threshold: float, inputs_only: bool) -> dict[str, Any]:
    """The command's document: each input, and unless `inputs_only` each tensor that int8 nodes read, the
    largest PSI first.

    A goes twice through the float model, B once, one sample at a time (or as many as the model fixes).
    Raises InputError for a set of a single run, and for activations with NaN or Inf; ShardError for shards
    that the model does not take.
    """
    model = Model.open(engine.model)
    calibration, live = open_shards(a, engine, model), open_shards(b, engine, model)
    inputs = [spec.name for spec in model.inputs]
    needed = () if inputs_only else ranges_needed(model)
    tensors = tuple(dict.fromkeys([*inputs, *needed]))
    seen = _seen(model, calibration, tensors)
    with_values = {tensor: values for tensor, values in seen.items() if values.count}
    in_a, in_b = (_Counted(model, shards, with_values) for shards in (calibration, live))
    shifts = [
        Shift(
            tensor=tensor,
            kind="input" if tensor in inputs else "activation",
            psi=drift.psi(in_a.total(tensor), in_b.total(tensor)),
            kl=drift.kl(in_a.total(tensor), in_b.total(tensor)),
            by_chance=drift.by_chance(in_a.runs[tensor], in_b.runs[tensor]),
            absmax=values.absmax,
            beyond=in_b.beyond[tensor] / int(in_b.total(tensor).sum()),
        )
        for tensor, values in with_values.items()
        if in_b.total(tensor).any()
    ]
    shifts.sort(key=lambda shift: -shift.psi)
    compared = {shift.tensor for shift in shifts}
    return {
        "a": str(a),
        "b": str(b),
        "samples": {"a": calibration.samples, "b": live.samples},
        "threshold": threshold,
        "tensors": [{**asdict(shift), "shifted": shift.shifted(threshold)} for shift in shifts],
        "not_compared": [tensor for tensor in tensors if tensor not in compared],
        "passed": not any(shift.shifted(threshold) for shift in shifts),
    }


def _seen(model: Model, shards: ShardSet, tensors: Sequence[str]) -> dict[str, SignedHistogram]:
    seen = {tensor: SignedHistogram() for tensor in tensors}
    for values in _runs(model, shards, tensors, "reading"):
        for tensor, histogram in seen.items():
            histogram.update(values.pop(tensor))
    return seen


class _Counted:
    """The values of a set by bin and by run, for each tensor; and how many are beyond what was `seen`."""

    def __init__(self, model: Model, shards: ShardSet, seen: Mapping[str, SignedHistogram]) -> None:
        self.runs: dict[str, list[NDArray[np.int64]]] = {tensor: [] for tensor in seen}
        self.beyond = dict.fromkeys(seen, 0)
        limits = {tensor: histogram.limits() for tensor, histogram in seen.items()}
        runs = 0
        for values in _runs(model, shards, tuple(seen), "counting"):
            runs += 1
            for tensor, histogram in seen.items():
                array, absmax = values.pop(tensor), histogram.absmax
                self.runs[tensor].append(bin_counts(array, limits[tensor]))
                self.beyond[tensor] += int(np.count_nonzero(np.abs(array) > absmax))
        if runs < 2:
            raise InputError(
                f"{_folder(shards)}: {shards.samples} sample(s), one run of the model, cannot be told from "
                "chance; give more"
            )

    def total(self, tensor: str) -> NDArray[np.int64]:
        return np.asarray(np.sum(self.runs[tensor], axis=0), np.int64)


def _runs(model: Model, shards: ShardSet, tensors: Sequence[str], what: str) -> Iterator[Tensors]:
    """The tensors of each run of the model as float32. Raises InputError for NaN and Inf in them."""
    passes = activations(model, shards, tensors, batch=1)
    what = f"{what} {_folder(shards)}, samples"
    for item, values in track(passes, what, shards.samples, lambda item: len(item[0].names)):
        with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes Inf
            floats = {tensor: values.pop(tensor).astype(np.float32, copy=False) for tensor in tensors}
        for tensor, array in floats.items():
            if not np.isfinite(array).all():
                raise InputError(
                    f"{_folder(shards)}: tensor {tensor!r} has NaN or Inf in sample {item.names[0]}; "
                    "mend the model or leave the sample out"
                )
        yield floats


def _folder(shards: ShardSet) -> Path:
    return shards.files[0].parent

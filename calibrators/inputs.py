"""What the model takes, and whether the arrays of a shard are that."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibrators.errors import CalibratorError, ShardError
from calibrators.formats import Header


@dataclass(frozen=True)
class InputSpec:
    """An input of the model. shape: with the batch axis; None is a dynamic axis."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def __post_init__(self) -> None:
        if any(length is not None and length < 1 for length in self.shape):
            raise CalibratorError(
                f"input {self.name!r} has shape {self.shape}: lengths are at least 1, or None where dynamic"
            )


def sample_axis(inputs: Sequence[InputSpec]) -> tuple[bool, int | None]:
    """Return whether axis 0 enumerates samples, and the batch size the model fixes there (None: any)."""
    if not all(spec.shape for spec in inputs):
        return False, None
    lengths = {spec.shape[0] for spec in inputs}
    if len(lengths) == 1 or lengths == {None, 1}:
        return True, 1 if 1 in lengths else lengths.pop()
    return False, None  # a vector of two beside a batch of any length is no batch of two


def check_headers(
    path: Path, headers: Mapping[str, Header], inputs: Sequence[InputSpec], batched: bool
) -> int:
    """Return how many samples a shard holds.

    Raises ShardError, naming the file, when its arrays are not what the inputs take: another set of
    names, another dtype, rank or static axis, different numbers of samples, or none.
    """
    _check_names(path, headers, inputs)
    for spec in inputs:
        _check_header(path, headers[spec.name], spec, batched)
    if not batched:
        return 1
    counts = {spec.name: headers[spec.name].shape[0] for spec in inputs}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{name!r} {count}" for name, count in counts.items())
        raise ShardError(f"{path}: inputs disagree on the number of samples: {shown}; make axis 0 the same")
    return counts[inputs[0].name]


def _check_names(path: Path, headers: Mapping[str, Header], inputs: Sequence[InputSpec]) -> None:
    wanted = [spec.name for spec in inputs]
    missing = [name for name in wanted if name not in headers]
    extra = [name for name in headers if name not in wanted]
    if not missing and not extra:
        return
    seen = []
    if missing:
        seen.append(f"missing input(s) {', '.join(map(repr, missing))}")
    if extra:
        seen.append(f"extra input(s) {', '.join(map(repr, extra))}")
    for name in missing:
        seen += [f"is {near!r} meant to be {name!r}?" for near in difflib.get_close_matches(name, extra, n=1)]
    raise ShardError(f"{path}: {'; '.join(seen)}; expected exactly {', '.join(map(repr, wanted))}")


def _check_header(path: Path, header: Header, spec: InputSpec, batched: bool) -> None:
    label = f"{path}: input {spec.name!r}"
    shape = header.shape
    if header.dtype != str(spec.dtype):
        raise ShardError(
            f"{label} is {header.dtype}, the model takes {spec.dtype}; convert with .astype('{spec.dtype}')"
        )
    if len(shape) != len(spec.shape):
        raise ShardError(
            f"{label} has shape {shape}, rank {len(shape)}; the model takes rank {len(spec.shape)}, "
            f"{_shown(spec.shape)}" + ("; axis 0 enumerates the samples" if batched else "")
        )
    for axis, (length, expected) in enumerate(zip(shape, spec.shape, strict=True)):
        if batched and axis == 0:
            continue  # any number of samples, also where the model fixes its batch: they are re-batched
        if expected is not None and length != expected:
            raise ShardError(
                f"{label} has shape {shape}: axis {axis} is {length}, the model takes {_shown(spec.shape)}"
            )
    if (shape[0] == 0) if batched else (0 in shape):  # a sample itself may be empty: a cache of length 0
        raise ShardError(f"{label} has shape {shape}: no samples in it; delete the file or write it again")


def _shown(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("?" if length is None else str(length) for length in shape) + ")"

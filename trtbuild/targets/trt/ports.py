"""Between the model and an engine: what the engine takes and gives, and the dtypes that TensorRT changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trtbuild.errors import InputError

NARROWED = {np.dtype(np.int64): np.dtype(np.int32), np.dtype(np.float64): np.dtype(np.float32)}
"""TensorRT below 10 has no int64, and no version computes in float64."""


@dataclass(frozen=True)
class Port:
    """An input of an engine: its dtype, and its smallest and largest shape (the optimization profile)."""

    dtype: np.dtype[Any]
    min: tuple[int, ...]
    max: tuple[int, ...]


class EngineRunner(Protocol):
    """An engine ready to run. It takes and gives the engine's own dtypes, and may reuse the arrays that it
    returned when it runs again."""

    @property
    def inputs(self) -> Mapping[str, Port]: ...
    @property
    def outputs(self) -> tuple[str, ...]: ...

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """The outputs by name, and the debug tensors that were asked for, as far as the engine has them."""


class OpenEngine(Protocol):
    """Load an engine's bytes, which were verified before. `name` is for messages; `debug` names the debug
    tensors to collect."""

    def __call__(
        self, plan: bytes, name: str, debug: Collection[str] = ()
    ) -> AbstractContextManager[EngineRunner]: ...


def to_engine(feeds: Mapping[str, NDArray[Any]], inputs: Mapping[str, Port]) -> dict[str, NDArray[Any]]:
    """The feeds in the engine's dtypes; those that the engine has no use for are left out.

    Raises InputError for a missing input, a shape outside of the profile, and a value that the engine's
    dtype cannot hold.
    """
    missing = [name for name in inputs if name not in feeds]
    if missing:
        raise InputError(f"the engine also takes input {missing[0]!r}, which the model does not have")
    return {name: _narrowed(name, _fitting(name, feeds[name], port), port) for name, port in inputs.items()}


def _fitting(name: str, array: NDArray[Any], port: Port) -> NDArray[Any]:
    fits = array.ndim == len(port.min) and all(
        low <= length <= high for low, length, high in zip(port.min, array.shape, port.max, strict=True)
    )
    if not fits:
        raise InputError(
            f"input {name!r} of shape {list(array.shape)} is outside of the engine's profile, "
            f"{list(port.min)} to {list(port.max)}; widen [inputs.{name}] in the recipe and build again"
        )
    return array


def _narrowed(name: str, array: NDArray[Any], port: Port) -> NDArray[Any]:
    if array.dtype == port.dtype:
        return array
    if NARROWED.get(array.dtype) != port.dtype:
        raise InputError(
            f"the engine takes input {name!r} as {port.dtype}, the model as {array.dtype}; build it again"
        )
    with np.errstate(over="ignore"):
        narrow = array.astype(port.dtype)
    held = np.isfinite(narrow) if port.dtype.kind == "f" else narrow == array
    if not held.all():
        value = array[~held].flat[0]
        raise InputError(f"input {name!r} holds {value}, which the {port.dtype} of the engine cannot hold")
    return narrow


def output_to_model(array: NDArray[Any], dtype: np.dtype[Any] | None) -> NDArray[Any]:
    """A copy of an output, in the model's dtype where TensorRT had to narrow it. Any other dtype than the
    model's is left to see: a caller would read it wrongly."""
    narrowed = dtype is not None and NARROWED.get(dtype) == array.dtype
    return np.array(array, dtype if narrowed else None)


def activation_to_model(array: NDArray[Any], dtype: np.dtype[Any] | None) -> NDArray[Any]:
    """A copy of an activation, which nobody but a diff reads: floats of any width in the model's dtype, or in
    float32 where that is not known."""
    dtype = dtype or np.dtype(np.float32)
    if array.dtype.kind == "f" and dtype.kind == "f":
        return np.array(array, dtype)
    return output_to_model(array, dtype)

"""Shards through the float model -> RangeTable."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from calibrators.errors import CalibratorError
from calibrators.method import Method, amax
from calibrators.shards import ShardSet
from calibrators.table import Range, RangeTable, TableKey
from trtbuild.collect.collect import ON_THIS_MACHINE, Options, collect
from trtbuild.digest import of_json
from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.model.scaling import to_json
from trtbuild.names import matcher, nearest
from trtbuild.ranges import auto
from trtbuild.recipe import CalibrationSection
from trtbuild.rewrite.explicit import ranges_needed

_EQUALIZED = re.compile(r" of the model equalized by [0-9a-f]{16}\Z")


def table_key(model: Model, shards: ShardSet, section: CalibrationSection) -> TableKey:
    """What a table of this model, these shards and these methods is stored and looked up by."""
    return TableKey(model.sha256, samples_of(shards), method_of(model, section.describe()))


def samples_of(shards: ShardSet) -> str:
    """The samples in a key: the shards, and whether they are cut into samples."""
    return shards.fingerprint() if shards.batched else f"{shards.fingerprint()} one sample each"


def method_of(model: Model, method: str) -> str:
    """The method in a key, and what tells an equalized model from the file that `TableKey.model` is of."""
    if not model.scaled:
        return method
    digest = of_json(to_json(model.scaled))[:16]
    return f"{method} of the model equalized by {digest}"


def of_equalized(key: TableKey | None) -> bool:
    """Whether a table's ranges are those of an equalized model."""
    return key is not None and _EQUALIZED.search(key.method) is not None


def calibrate(
    model: Model,
    shards: ShardSet,
    section: CalibrationSection,
    batch: int,
    tensors: Sequence[str] | None = None,
    how: Options = ON_THIS_MACHINE,
) -> RangeTable:
    """Run every sample through the float model, up to `batch` at a time, and take a range for each of
    `tensors`: where none are named, the activations that int8 nodes may read, whatever the pins.

    Where the method of a tensor is "auto", the range is of the method that harms the model's outputs least,
    and `Range.method` says which.

    Raises InputError for a model that brings its own Q/DQ, for a pattern of `[calibration.tensors]` and a
    type of `[calibration.types]` that match no tensor, and for activations with NaN or Inf.
    """
    require_float(model)
    tensors = ranges_needed(model) if tensors is None else tensors
    methods = _methods(model, section, tensors)
    histograms = collect(model, shards, tensors, batch, how)
    fixed, proposed = {}, {}
    for tensor, method in methods.items():
        try:
            if method == "auto":
                proposed[tensor] = auto.candidates(histograms.pop(tensor))
            else:
                fixed[tensor] = Range(amax(histograms.pop(tensor), method), str(method))
        except CalibratorError as error:
            raise InputError(f"tensor {tensor!r}: {error}") from error
    chosen = auto.choose_ranges(model, shards, proposed, fixed) if proposed else {}
    ranges = {tensor: chosen.get(tensor) or fixed[tensor] for tensor in tensors}
    return RangeTable(ranges, table_key(model, shards, section), shards.samples)


def require_float(model: Model) -> None:
    """Raise InputError for a model that brings its own Q/DQ."""
    if model.quantized:
        raise InputError(
            f"{model.path} brings its own Q/DQ: its ranges are in the graph already. Build it as it is, "
            "or export it without Q/DQ to calibrate it"
        )


def _methods(
    model: Model, section: CalibrationSection, tensors: Sequence[str]
) -> Mapping[str, Method | Literal["auto"]]:
    """The method of each tensor. Raises InputError for a pattern or a type that matches none of them."""
    makers = {str(value.name): node.op_type for node in model.graph for value in node.outputs}
    types = {makers[tensor] for tensor in tensors if tensor in makers}
    for pattern in section.tensors:
        if not any(map(matcher(pattern), tensors)):
            raise InputError(
                f"[calibration.tensors] {pattern!r} matches no calibrated tensor{nearest(pattern, tensors)}"
            )
    for op_type in section.types:
        if op_type not in types:
            raise InputError(
                f"[calibration.types] {op_type!r} makes no calibrated tensor{nearest(op_type, types)}; "
                f"those that do are {', '.join(sorted(types)) or 'none'}"
            )
    return {tensor: section.method_of(tensor, makers.get(tensor)) for tensor in tensors}

"""Shards through the float model -> RangeTable."""

from __future__ import annotations

from collections.abc import Sequence

from calibrators.errors import CalibratorError
from calibrators.histogram import Histogram
from calibrators.method import amax
from calibrators.shards import ShardSet
from calibrators.table import Range, RangeTable, TableKey
from trtbuild.collect.collect import collect
from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.names import matcher, nearest
from trtbuild.recipe import CalibrationSection
from trtbuild.rewrite.explicit import ranges_needed


def table_key(model: Model, shards: ShardSet, section: CalibrationSection) -> TableKey:
    """What a table of this model, these shards and these methods is stored and looked up by."""
    samples = shards.fingerprint() if shards.batched else f"{shards.fingerprint()} one sample each"
    return TableKey(model=model.sha256, shards=samples, method=section.describe())


def calibrate(
    model: Model,
    shards: ShardSet,
    section: CalibrationSection,
    batch: int,
    tensors: Sequence[str] | None = None,
) -> RangeTable:
    """Run every sample through the float model, up to `batch` at a time, and take a range for each of
    `tensors`: where none are named, the activations that int8 nodes may read, whatever the pins.

    Raises InputError for a model that brings its own Q/DQ, for a `[calibration.tensors]` pattern
    that matches no tensor, and for activations with NaN or Inf.
    """
    require_float(model)
    tensors = ranges_needed(model) if tensors is None else tensors
    _check_patterns(section, tensors)
    histograms = collect(model, shards, tensors, batch)
    ranges = {tensor: _range(tensor, histograms[tensor], section) for tensor in tensors}
    return RangeTable(ranges, table_key(model, shards, section), shards.samples)


def require_float(model: Model) -> None:
    """Raise InputError for a model that brings its own Q/DQ."""
    if model.quantized:
        raise InputError(
            f"{model.path} brings its own Q/DQ: its ranges are in the graph already. Build it as it is, "
            "or export it without Q/DQ to calibrate it"
        )


def _range(tensor: str, histogram: Histogram, section: CalibrationSection) -> Range:
    method = section.method_of(tensor)
    try:
        return Range(amax(histogram, method), str(method))
    except CalibratorError as error:
        raise InputError(f"tensor {tensor!r}: {error}") from error


def _check_patterns(section: CalibrationSection, tensors: Sequence[str]) -> None:
    for pattern in section.tensors:
        if not any(map(matcher(pattern), tensors)):
            raise InputError(
                f"[calibration.tensors] {pattern!r} matches no calibrated tensor{nearest(pattern, tensors)}"
            )

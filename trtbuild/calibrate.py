"""Shards through the float model -> RangeTable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from calibrators.errors import CalibratorError
from calibrators.histogram import Histogram
from calibrators.method import amax
from calibrators.shards import Batch, ShardSet
from calibrators.table import Range, RangeTable, TableKey
from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.names import matcher, nearest
from trtbuild.progress import track
from trtbuild.recipe import CalibrationSection
from trtbuild.rewrite.cut import with_outputs
from trtbuild.rewrite.explicit import ranges_needed
from trtbuild.targets.base import Runner
from trtbuild.targets.session import Tensors, infer, per_sample, real_rows, runner

MEMORY = 1 << 29
"""Bytes of activations that are held at once: with many tensors, fewer samples run at a time."""


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
    histograms = {tensor: Histogram() for tensor in tensors}
    for activations in _activations(model, shards, tensors, batch):
        for tensor, histogram in histograms.items():
            histogram.update(activations.pop(tensor))
    ranges = {tensor: _range(tensor, histograms[tensor], section) for tensor in tensors}
    return RangeTable(ranges, table_key(model, shards, section), shards.samples)


def require_float(model: Model) -> None:
    """Raise InputError for a model that brings its own Q/DQ."""
    if model.quantized:
        raise InputError(
            f"{model.path} brings its own Q/DQ: its ranges are in the graph already. Build it as it is, "
            "or export it without Q/DQ to calibrate it"
        )


def _activations(model: Model, shards: ShardSet, tensors: Sequence[str], batch: int) -> Iterator[Tensors]:
    """The tensors of one batch after the other. Rows that only fill up a fixed batch are cut off, where
    they are known to be rows: they repeat real samples, so keeping one in doubt clips nothing."""
    inputs = {spec.name for spec in model.inputs}
    produced = [tensor for tensor in tensors if tensor not in inputs]
    if not produced:
        own = inputs if shards.batched else ()
        yield from (real_rows(item.feeds, own, len(item.names)) for item in _batches(shards, batch))
        return
    with runner(
        with_outputs(model.normalised, produced, cut=bool(model.unrunnable)), "calibration"
    ) as active:
        for item in _batches(shards, min(batch, _at_once(active, shards))):
            yield _run(active, item, shards.batched)


def _batches(shards: ShardSet, size: int) -> Iterator[Batch]:
    return track(shards.batches(size), "calibrating, samples", shards.samples, lambda item: len(item.names))


def _at_once(active: Runner, shards: ShardSet) -> int:
    """How many samples' activations fit into MEMORY, going by the first sample."""
    first = next(shards.batches(1, limit=1))
    size = sum(array.nbytes for array in infer(active, first.feeds, _samples(first)).values())
    return max(MEMORY // max(size, 1), 1)


def _run(active: Runner, item: Batch, batched: bool) -> Tensors:
    """A batch's activations, real rows only: nobody else holds on to them."""
    outputs, real = infer(active, item.feeds, _samples(item)), len(item.names)
    filled_up = batched and len(next(iter(item.feeds.values()))) > real
    rows = per_sample(active, item.feeds, outputs, _samples(item)) if filled_up else set()
    rows_of = {*item.feeds, *rows} if filled_up else ()
    return real_rows({**item.feeds, **outputs}, rows_of, real)


def _samples(item: Batch) -> str:
    return item.names[0] if len(item.names) == 1 else f"{item.names[0]} to {item.names[-1]}"


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

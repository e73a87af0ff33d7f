"""How far int8 shifts the mean of every output channel, node after node, with all before it taken back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibrators.shards import Batch
from trtbuild.model.model import Model
from trtbuild.ranges.stages import Flow, part_of
from trtbuild.rewrite.biases import Bias
from trtbuild.rewrite.cut import with_outputs
from trtbuild.targets.base import Runner
from trtbuild.targets.session import Tensors, infer, per_sample, runner

_SUM, _LENGTHS = "::sum", "::lengths"
Means = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Piece:
    """What runs between two cuts. `biases`: of the nodes in it, none of which reads what another one makes.
    `end` is at or before the node at `first`, the first that reads any of them."""

    biases: tuple[Bias, ...]
    start: int
    end: int
    first: int


@dataclass
class Carried:
    """The samples of a batch. state: what the rest of the quantized model reads of them. rows: tensor -> how
    many of its rows are of real samples, where others only fill up a fixed batch."""

    state: Tensors
    label: str
    rows: dict[str, int] = field(default_factory=dict)


def pieces(found: Sequence[Bias], flow: Flow, length: int) -> list[Piece]:
    """As few as have every bias corrected before anything reads what it changes. flow: of the quantized
    graph, `length` nodes long. A node behind which no cut is possible is left out."""
    planned: list[Piece] = []
    for bias in sorted(found, key=lambda bias: flow.made[bias.tensor]):
        made, first = flow.made[bias.tensor], flow.first.get(bias.tensor, length)
        if planned:
            last, both = planned[-1], min(first, planned[-1].first)
            end = _cut(flow, made, both)
            if end is not None:
                planned[-1] = replace(last, biases=(*last.biases, bias), end=end, first=both)
                continue
        start, end = planned[-1].end if planned else 0, _cut(flow, made, first)
        if made >= start and end is not None:
            planned.append(Piece((bias,), start, end, first))
    return planned


def _cut(flow: Flow, made: int, first: int) -> int | None:
    """Where to cut behind the node at `made` and not behind the one at `first`."""
    return next((position for position in range(first, made, -1) if flow.can_cut(position)), None)


def float_means(
    model: Model, found: Sequence[Bias], batches: Sequence[Batch], batched: bool
) -> tuple[list[Carried], Means]:
    """The batches as the quantized model starts from them, and the mean of each channel in the float model,
    by tensor. batched: axis 0 counts samples.

    Raises InputError when a sample cannot be run, BuildError when ONNX Runtime refuses the model.
    """
    shown = with_outputs(model.normalised, [bias.tensor for bias in found], cut=True)
    shown.graph.outputs.clear()
    _show_sums(shown, found)
    means = {bias.tensor: _Mean(bias.size) for bias in found}
    carried = []
    with runner(shown, "bias correction") as active:
        for batch in batches:
            made = infer(active, batch.feeds, batch.label)
            rows = _real_rows(active, batch, made) if batched else {}
            carried.append(Carried(dict(batch.feeds), batch.label, rows))
            for tensor, mean in means.items():
                mean.add(made, tensor, rows.get(tensor))
    return carried, {tensor: mean.value() for tensor, mean in means.items()}


def shifts(
    written: ir.Model, piece: Piece, flow: Flow, carried: Sequence[Carried], means: Means
) -> Iterator[tuple[Bias, NDArray[np.float32]]]:
    """The shift of each bias of a piece. The samples are carried to its end, and the shifts taken out of
    them: a bias is added, so the nodes need not run again. written: the quantized model."""
    live = flow.live(piece.end)
    new = [name for name in live if flow.made[name] >= piece.start]
    shown = dict.fromkeys([*new, *(bias.tensor for bias in piece.biases)])
    part = part_of(written, flow.live(piece.start), list(shown))
    part.graph.outputs[:] = [value for value in part.graph.outputs if value.name in new]
    _show_sums(part, piece.biases)
    quantized = {bias.tensor: _Mean(bias.size) for bias in piece.biases}
    with runner(part, "bias correction") as active:
        inputs = [str(value.name) for value in part.graph.inputs]
        for batch in carried:
            made = infer(active, {name: batch.state[name] for name in inputs}, batch.label)
            for tensor, mean in quantized.items():
                mean.add(made, tensor, batch.rows.get(tensor))
            batch.state = {name: made[name] if name in made else batch.state[name] for name in live}
    for bias in piece.biases:
        with np.errstate(invalid="ignore"):
            shift = quantized[bias.tensor].value() - means[bias.tensor]
        correction = np.where(np.isfinite(shift), shift, 0).astype(np.float32)  # Inf is no bias's to mend
        for batch in carried:
            if bias.tensor in batch.state:
                array = batch.state[bias.tensor]
                behind = [1] * ((-1 - bias.axis) % array.ndim)
                batch.state[bias.tensor] = array - correction.reshape(-1, *behind)
        yield bias, correction


class _Mean:
    """The mean of every channel of a tensor over rows and positions, of all that is added."""

    def __init__(self, size: int) -> None:
        self._total = np.zeros(size)
        self._count = 0

    def add(self, shown: Tensors, tensor: str, rows: int | None) -> None:
        """shown: what `_show_sums` made of the tensor. rows: how many count; None: all."""
        sums, lengths = shown[tensor + _SUM][:rows], shown[tensor + _LENGTHS].tolist()
        self._total += sums.sum(axis=0, dtype=np.float64)
        self._count += len(sums) * (math.prod(lengths[1:]) // len(self._total))

    def value(self) -> NDArray[np.float64]:
        return self._total / max(self._count, 1)


def _show_sums(part: ir.Model, found: Sequence[Bias]) -> None:
    """Make outputs of the sums of these tensors, shape (rows, channels), and of their lengths: the tensors
    themselves need not be held."""
    values = {str(value.name): value for node in part.graph for value in node.outputs}
    for bias in found:
        value = values[bias.tensor]
        assert value.shape is not None
        rank = len(value.shape)
        others = [axis for axis in range(1, rank) if axis != bias.axis % rank]
        name = f"{bias.tensor}{_SUM}::axes"
        axes = ir.Value(name=name, const_value=ir.tensor(np.asarray(others, np.int64), name=name))
        part.graph.register_initializer(axes)
        total = ir.Value(name=bias.tensor + _SUM, type=ir.TensorType(ir.DataType.FLOAT))
        lengths = ir.Value(name=bias.tensor + _LENGTHS, type=ir.TensorType(ir.DataType.INT64))
        how = {"keepdims": 0, "noop_with_empty_axes": 1}
        part.graph.append(ir.node("ReduceSum", [value, axes], how, outputs=[total]))
        part.graph.append(ir.node("Shape", [value], outputs=[lengths]))
        part.graph.outputs.extend([total, lengths])


def _real_rows(active: Runner, batch: Batch, made: Tensors) -> dict[str, int]:
    real = len(batch.names)
    if len(next(iter(batch.feeds.values()))) == real:
        return {}
    sums = {name: array for name, array in made.items() if name.endswith(_SUM)}
    return {name.removesuffix(_SUM): real for name in per_sample(active, batch.feeds, sums, batch.label)}

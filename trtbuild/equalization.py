"""Equalization: by how much the channels of which activation are rescaled before ranges are taken.

One int8 scale serves all channels of an activation, so those that are small beside the largest lose their
bits; weights have a scale per output channel. What spreads the channels is moved from the activation into
the weights that read it: s_c = max|w_c|^(1 - alpha) / max|x_c|^alpha (Xiao et al. 2023, "SmoothQuant"; Nagel
et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction"). The float function
stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibrators.shards import ShardSet
from calibrators.table import TableKey
from trtbuild import kept
from trtbuild.collect.memory import passes
from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.model.scaling import from_json, to_json
from trtbuild.progress import track
from trtbuild.rewrite.equalize import equalized, restored
from trtbuild.rewrite.folds import Fold, folds

CAP = 1e4
"""Channels further below the largest count as if they were no further: so a factor is at most this, and at
least its inverse."""
KEPT = "equalized"
Maxima = Mapping[str, NDArray[np.float32]]


def equalize(model: Model, shards: ShardSet, alpha: float, batch: int, memory: float) -> Model:
    """`model` with every activation equalized that can be, by what all samples make of it.

    alpha: how much of the spread between channels the weights take over, 0 to 1. batch: samples at a time.
    memory: bytes of activations that are held at once.
    Raises InputError when a sample cannot be run or makes NaN or Inf.
    """
    found = list(folds(model))
    maxima = channel_maxima(model, shards, found, batch, memory) if found else {}
    factors = {fold.tensor: factors_of(fold, maxima[fold.tensor], model, alpha) for fold in found}
    return equalized(model, {tensor: each for tensor, each in factors.items() if (each != 1).any()})


def channel_maxima(
    model: Model, shards: ShardSet, found: Sequence[Fold], batch: int, memory: float
) -> dict[str, NDArray[np.float32]]:
    """The largest magnitude of each channel of the folds' activations, over all samples: shape (channels,).

    Raises as `equalize` does.
    """
    axes = {fold.tensor: fold.axis for fold in found}
    maxima = {fold.tensor: np.zeros(fold.size, np.float32) for fold in found}
    plan = list(passes(model, shards, list(axes), batch, memory))
    runs = (run for forward in plan for run in forward.run())
    total = shards.samples * len(plan)
    for samples, activations in track(runs, "equalizing, samples", total, lambda run: len(run[0].names)):
        for tensor, array in activations.items():
            if tensor not in axes:
                continue
            others = tuple(axis for axis in range(array.ndim) if axis != array.ndim + axes[tensor])
            seen = np.maximum(array.max(axis=others, initial=0), -array.min(axis=others, initial=0))
            if not np.isfinite(seen).all():
                raise InputError(
                    f"tensor {tensor!r} has NaN or Inf in {samples.label}: it cannot be equalized; "
                    "mend the model or the samples that make them"
                )
            np.maximum(maxima[tensor], seen, out=maxima[tensor])
    return maxima


def factors_of(fold: Fold, maxima: NDArray[np.float32], model: Model, alpha: float) -> NDArray[np.float32]:
    """The factor of each channel, 1 where the channel is zero in every sample.

    The largest magnitude of the whole activation stays about what it was, so that nothing overflows in
    float16 that did not before. Depthwise readers take over all of the spread, whatever alpha: their scale
    per output channel is one per channel read.
    """
    read = _weight_maxima(fold, model)
    live = maxima > 0
    if not live.any() or not read.any():
        return np.ones(fold.size, np.float32)
    share = 1.0 if fold.depthwise else alpha
    activation = np.maximum(maxima.astype(np.float64), maxima.max() / CAP)
    weight = np.maximum(read, read.max() / CAP)
    factors = weight ** (1 - share) / activation**share
    factors *= activation.max() / (activation * factors)[live].max()
    return np.where(live, factors, 1.0).astype(np.float32)


def _weight_maxima(fold: Fold, model: Model) -> NDArray[np.float64]:
    """The largest magnitude of the weights that read each channel."""
    nodes = {str(node.name): node for node in model.graph}
    maxima = np.zeros(fold.size)
    for reader in fold.readers:
        weight = nodes[reader.node].inputs[reader.index]
        assert weight is not None
        assert weight.const_value is not None
        data = np.abs(weight.const_value.numpy())
        np.maximum.at(maxima, np.broadcast_to(reader.channels, data.shape), data)
    return maxima


def keep(model: Model, key: TableKey, path: Path) -> None:
    """Write how `model` is equalized, whole or not at all. key: what it depends on."""
    kept.keep(path, asdict(key), KEPT, to_json(model.scaled))


def stored(model: Model, key: TableKey, path: Path) -> Model | None:
    """`model` equalized as `keep` wrote under this key; None where there is no such file. Raises InputError
    for a damaged one."""
    return kept.kept(path, asdict(key), KEPT, lambda found: restored(model, from_json(found)))

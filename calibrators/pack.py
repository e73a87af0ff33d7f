"""Arrays from anywhere -> single samples, each checked against the model's inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrators.errors import ShardError
from calibrators.formats import Header
from calibrators.inputs import InputSpec, check_headers

_STORABLE = "biufc"  # kinds of dtypes that an .npz holds without pickling


@dataclass(frozen=True, eq=False)
class Sample:
    """arrays: input name -> array without the batch axis (of a model without one: the whole feed).

    source: where it came from, for messages and for whoever writes the labels.
    """

    source: str
    arrays: dict[str, NDArray[Any]]


def count_samples(
    source: str, headers: Mapping[str, Header], inputs: Sequence[InputSpec], batched: bool
) -> int | None:
    """Return how many samples lie along axis 0, or None where the arrays are one sample without that axis.

    Where the model has a batch axis, arrays of one rank less than all its inputs are one sample.
    Raises ShardError, naming the source, as ``inputs.check_headers`` does, and for an input whose dtype
    no .npz can hold.
    """
    for spec in inputs:
        if spec.dtype.kind not in _STORABLE:
            raise ShardError(f"input {spec.name!r} is {spec.dtype}: no .npz shard can hold that")
    ranks = {spec.name: len(spec.shape) - 1 for spec in inputs}
    if batched and all(len(header.shape) == ranks.get(name) for name, header in headers.items()):
        headers = {name: Header(header.dtype, (1, *header.shape)) for name, header in headers.items()}
        check_headers(Path(source), headers, inputs, batched)
        return None
    count = check_headers(Path(source), headers, inputs, batched)
    return count if batched else None


def samples_in(
    source: str, arrays: Mapping[str, NDArray[Any]], inputs: Sequence[InputSpec], batched: bool
) -> Iterator[Sample]:
    """Cut one file, or what a generator gave, into its samples: views of the arrays, in their order.

    Raises ShardError, naming the source, as ``count_samples`` does, and at a sample with NaN or Inf.
    """
    headers = {name: Header(str(array.dtype), array.shape) for name, array in arrays.items()}
    count = count_samples(source, headers, inputs, batched)
    if count is None:
        yield _finite(Sample(source, dict(arrays)))
        return
    for index in range(count):
        one = {name: array[index] for name, array in arrays.items()}
        yield _finite(Sample(f"{source}:{index}" if count > 1 else source, one))


def _finite(sample: Sample) -> Sample:
    for name, array in sample.arrays.items():
        if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
            bad = int(np.size(array) - np.count_nonzero(np.isfinite(array)))
            raise ShardError(
                f"{sample.source}: input {name!r} has {bad} NaN or Inf; leave the sample out or mend it"
            )
    return sample

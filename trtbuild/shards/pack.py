"""`shards pack`: samples from anywhere -> a folder of shards that fits a model."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from calibrators.inputs import sample_axis
from calibrators.pack import Sample
from calibrators.write import check_destination, write_shards
from trtbuild.engine import Engine
from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.progress import track
from trtbuild.shards.pixels import PixelOptions
from trtbuild.shards.source import Source, open_source


def pack(
    source: str, output: Path, engine: Engine, options: PixelOptions, per_shard: int, limit: int | None
) -> dict[str, Any]:
    """Write the first `limit` samples (None: all) of a source into the new folder `output`; returns what
    was written, for the command's document.

    Raises InputError and ShardError for a source, a sample or an `output` that is no good: then, and when
    interrupted, nothing is left there.
    """
    check_destination(output)
    inputs = Model.open(engine.model).inputs
    if not inputs:
        raise InputError(f"{engine.model}: the model has no inputs, so there is nothing to pack")
    batched = engine.recipe.model.batched and sample_axis(inputs)[0]
    opened = open_source(source, inputs, batched, options)
    written = write_shards(output, _watched(opened, limit), per_shard, batched)
    return {
        "source": source,
        "kind": opened.kind,
        "path": str(output),
        "batched": batched,
        "samples": written.samples,
        "shards": written.shards,
        "bytes": written.bytes,
        "inputs": {spec.name: str(spec.dtype) for spec in inputs},
    }


def _watched(source: Source, limit: int | None) -> Iterator[Sample]:
    """The samples, with progress."""
    totals = [total for total in (source.total, limit) if total is not None]
    samples = islice(source.samples, limit)
    return track(samples, "packing, samples", min(totals, default=None), lambda _: 1)

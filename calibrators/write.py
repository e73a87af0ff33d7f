"""Samples -> a folder of .npz shards: whole, or not there."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from calibrators.errors import CalibratorError, ShardError
from calibrators.pack import Sample

SOURCES = "sources.json"
"""Beside the shards: sample name -> where the sample came from; labels go by the former."""
_UNFINISHED = ".unfinished-"


@dataclass(frozen=True)
class Written:
    """What is in the folder: files, samples, and the bytes of the files."""

    shards: int
    samples: int
    bytes: int


def check_destination(folder: Path) -> None:
    """Raise ShardError unless `folder` is missing or empty, in a folder that exists."""
    if not folder.absolute().parent.is_dir():
        raise ShardError(f"{folder}: there is no folder {folder.absolute().parent}; make it first")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ShardError(f"{folder} is no folder; name one that is not there yet")
    if folder.is_dir() and any(folder.iterdir()):
        raise ShardError(f"{folder} is not empty; name another folder, or delete it first")


def write_shards(folder: Path, samples: Iterable[Sample], per_shard: int, batched: bool) -> Written:
    """Write samples in their order, up to `per_shard` to a file and only those of the same shapes.

    Where the model has no batch axis (``batched=False``) each sample is a file. No more than one shard is
    held in memory. The files and their bytes are the same whenever the samples are. They are written
    to a folder beside `folder`, which gets that name at the end.
    Raises ShardError as ``check_destination`` does, for no samples at all, and when the folder cannot be
    written; CalibratorError for a `per_shard` below 1.
    """
    if per_shard < 1:
        raise CalibratorError(f"{per_shard} samples per shard: expected at least 1")
    check_destination(folder)
    try:
        staging = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder.absolute().parent))
    except OSError as exc:
        raise _unwritable(folder, exc) from exc
    try:
        return _filled(staging, folder, samples, per_shard, batched)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _filled(staging: Path, folder: Path, samples: Iterable[Sample], per_shard: int, batched: bool) -> Written:
    shards, size = 0, 0
    sources: dict[str, str] = {}
    for group in _groups(samples, per_shard if batched else 1):
        path = staging / f"shard-{shards:06d}.npz"
        try:
            _write(path, _stacked(group) if batched else group[0].arrays)
        except OSError as exc:
            raise _unwritable(folder, exc) from exc
        sources |= {f"{path.stem}:{index}": sample.source for index, sample in enumerate(group)}
        shards, size = shards + 1, size + path.stat().st_size
    if not shards:
        raise ShardError(f"{folder}: there were no samples to write")
    try:
        (staging / SOURCES).write_text(json.dumps(sources, indent=0), encoding="utf-8")
        staging.chmod(0o755)
        staging.rename(folder)
    except OSError as exc:
        raise _unwritable(folder, exc) from exc
    return Written(shards, len(sources), size)


def _groups(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    """Consecutive samples of the same shapes, up to `size` of them."""
    group: list[Sample] = []
    for sample in samples:
        if len(group) == size or (group and _shapes(group[0]) != _shapes(sample)):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


def _shapes(sample: Sample) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in sample.arrays.items()}


def _stacked(group: list[Sample]) -> dict[str, NDArray[Any]]:
    return {name: np.stack([sample.arrays[name] for sample in group]) for name in group[0].arrays}


def _write(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """As np.savez, which cannot write an input called "file"."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                npy.write_array(stream, np.asanyarray(array), allow_pickle=False)


def _unwritable(folder: Path, exc: OSError) -> ShardError:
    return ShardError(f"{folder} cannot be written: {exc.strerror or exc}")

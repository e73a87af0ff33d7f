"""The shards of a folder: found, opened and checked by their headers; no data is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calibrators.errors import ShardError
from calibrators.formats import SUFFIXES, read_headers
from calibrators.inputs import InputSpec, check_headers


@dataclass(frozen=True)
class Shard:
    """One file as its header describes it. shapes: of one sample, in the order of the model's inputs."""

    path: Path
    samples: int
    shapes: tuple[tuple[int, ...], ...]
    size: int
    mtime_ns: int

    def sample_name(self, index: int) -> str:
        return f"{self.path.stem}:{index}"

    def check_unchanged(self) -> None:
        """Raise ShardError when the file vanished or changed after it was opened."""
        status = _stat(self.path)
        if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns):
            raise ShardError(f"{self.path} changed after it was checked; run again when nothing writes to it")


def find_shards(folder: Path) -> list[Path]:
    """Return the shard files of a folder in the order of their names.

    Raises ShardError for a folder that is missing or has none, and for two files with one stem.
    """
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as exc:
        raise ShardError(f"{folder}: expected a folder of shards: {exc.strerror or exc}") from exc
    files = [path for path in entries if path.suffix.lower() in SUFFIXES]
    if not files:
        raise ShardError(f"{folder}: no shards in it; expected files ending in {', '.join(SUFFIXES)}")
    by_stem: dict[str, Path] = {}
    for path in files:
        if (other := by_stem.setdefault(path.stem, path)) is not path:
            raise ShardError(f"{path}: {other.name} has the same stem: sample names collide; rename one")
    return files


def open_shard(path: Path, inputs: Sequence[InputSpec], batched: bool) -> Shard:
    """Check a file's header against the model's inputs. Raises ShardError as ``ShardSet.open`` says."""
    if path.suffix.lower() == ".npy" and len(inputs) > 1:
        raise ShardError(
            f"{path} holds one array, the model has {len(inputs)} inputs; write them into one .npz"
        )
    status = _stat(path)
    headers = read_headers(path, npy_name=inputs[0].name)
    samples = check_headers(path, headers, inputs, batched)
    shapes = [headers[spec.name].shape for spec in inputs]
    of_one_sample = tuple(shape[1:] if batched else shape for shape in shapes)
    return Shard(path, samples, of_one_sample, status.st_size, status.st_mtime_ns)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as exc:
        raise unreadable(path, exc) from exc


def unreadable(path: Path, exc: OSError) -> ShardError:
    return ShardError(f"{path} cannot be read: {exc.strerror or exc}; put it back or make it readable")

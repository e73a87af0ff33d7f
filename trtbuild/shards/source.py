"""What `shards pack` reads: a folder of arrays, a folder of images, or a generator function."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibrators import formats
from calibrators.inputs import InputSpec
from calibrators.pack import Sample, count_samples, samples_in
from trtbuild.errors import InputError
from trtbuild.progress import say
from trtbuild.shards import generated, images
from trtbuild.shards.pixels import PixelOptions, pixels_of


@dataclass(frozen=True)
class Source:
    """kind: "arrays", "images" or "generator". total: how many samples there are, None where nobody knows."""

    kind: str
    samples: Iterable[Sample]
    total: int | None


def open_source(reference: str, inputs: Sequence[InputSpec], batched: bool, options: PixelOptions) -> Source:
    """Open a folder, or a `file.py:function` or `module:function`. Files are taken in the order of their
    names; hidden files and subfolders are passed over, and other files too, which is said.

    Raises InputError when it is none of these, or a folder without samples or with two kinds of them; for
    image options where there are no images; ShardError, naming the file, when the header of an array does
    not fit the model.
    """
    folder = Path(reference)
    if not folder.is_dir():
        if not reference.rpartition(":")[2].isidentifier() or ":" not in reference:
            raise InputError(f"{reference}: neither a folder, nor file.py:function, nor module:function")
        _no_options(options, reference)
        function = generated.load(reference)
        return Source("generator", generated.read(function, reference, inputs, batched), None)
    arrays, pictures = _files(folder)
    if arrays and pictures:
        raise InputError(
            f"{folder} holds arrays ({arrays[0].name}) and images ({pictures[0].name}); part them"
        )
    if pictures:
        images.require_pillow()
        pixels = pixels_of(options, inputs, batched)
        return Source("images", images.read(pictures, pixels, inputs, batched), len(pictures))
    _no_options(options, reference)
    if not arrays:
        wanted = ", ".join((*formats.SUFFIXES, *images.SUFFIXES))
        raise InputError(f"{folder}: no samples in it; expected files ending in {wanted}")
    counts = [_count(path, inputs, batched) for path in arrays]
    return Source("arrays", _read(arrays, inputs, batched), sum(counts))


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    found = sorted((path for path in folder.iterdir() if path.name[0] != "."), key=lambda path: path.name)
    files = [path for path in found if path.is_file()]
    arrays = [path for path in files if path.suffix.lower() in formats.SUFFIXES]
    pictures = [path for path in files if path.suffix.lower() in images.SUFFIXES]
    others = [path.name for path in found if path not in {*arrays, *pictures}]
    if others and (arrays or pictures):
        say(f"note: passed over in {folder}: {len(others)} that are no samples ({others[0]})")
    return arrays, pictures


def _no_options(options: PixelOptions, reference: str) -> None:
    if given := options.given():
        raise InputError(f"{given[0]} is for images, and {reference} holds none")


def _count(path: Path, inputs: Sequence[InputSpec], batched: bool) -> int:
    _one_array(path, inputs)
    headers = formats.read_headers(path, npy_name=inputs[0].name)
    return count_samples(str(path), headers, inputs, batched) or 1


def _one_array(path: Path, inputs: Sequence[InputSpec]) -> None:
    if path.suffix.lower() == ".npy" and len(inputs) > 1:
        raise InputError(f"{path} holds one array, the model has {len(inputs)} inputs; use .npz files")


def _read(paths: Sequence[Path], inputs: Sequence[InputSpec], batched: bool) -> Iterator[Sample]:
    for path in paths:
        arrays = formats.read_arrays(path, npy_name=inputs[0].name)
        yield from samples_in(str(path), arrays, inputs, batched)

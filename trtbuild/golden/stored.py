"""Golden outputs in a file: for a device that checks its engine without running a golden."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

import trtbuild
from calibrators.shards import Batch, ShardSet
from calibrators.whole_file import replacing
from trtbuild.digest import of_json, of_tensors
from trtbuild.errors import InputError, one_line
from trtbuild.golden.scope import outputs_of
from trtbuild.golden.tensor_file import header, storable
from trtbuild.model.model import Model
from trtbuild.paths import check_writable
from trtbuild.progress import track
from trtbuild.recipe import InputSection
from trtbuild.targets.base import Runner, Shows, Side
from trtbuild.targets.session import Tensors, infer, moved_on

SCHEMA_VERSION = 2
BLOCK = 1 << 20
DOCUMENT, CHECKSUM = "trtbuild.golden", "sha256"  # of the file's metadata
FIELDS = {"model", "shards", "samples", "outputs", "whole", "calls"}  # of the document, those read here


def check_place(path: Path) -> None:
    """Raise InputError unless golden outputs can be written to `path`; over no other file, be it a model."""
    check_writable(path, "--save-golden")
    if path.exists() and path.stat().st_size and not _holds_golden(path):
        raise InputError(
            f"--save-golden {path} is there and holds no golden outputs; give another name or delete it"
        )


def save(path: Path, model: Model, golden: Side, shards: ShardSet, made_by: Mapping[str, Any]) -> None:
    """Run the golden over all samples and store its outputs in a .safetensors file, atomically.

    The file knows the model, the samples, and what made it: the side's name and `made_by` (JSON).
    Raises InputError when a sample cannot be run, and for an output that cannot be stored as numbers.
    """
    with replacing(path) as stream, tempfile.TemporaryFile(dir=path.parent) as data:  # refused before the run
        entries, document = _record(data, model, golden, shards, made_by)
        text = json.dumps(document)
        checksum = _checksum(text, ((name, digest) for name, _, _, digest in entries))
        stream.write(header([entry[:3] for entry in entries], {DOCUMENT: text, CHECKSUM: checksum}))
        data.seek(0)
        shutil.copyfileobj(data, stream, BLOCK)


def open_stored(path: Path, model: Model, shards: ShardSet) -> StoredSide:
    """The golden side that `save` stored for this model and these samples.

    Raises InputError for a file that is missing, truncated, damaged or of another kind or version, and for
    one that was stored for another model or for other samples.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file of stored golden outputs; make one with --save-golden")
    with _opened(path) as file:
        document = _document(path, file)
    if document["model"] != model.sha256:
        raise InputError(
            f"{path} was stored for another model (SHA-256 {document['model'][:16]}…) than {model.path}; "
            "store it again from this one"
        )
    if document["shards"] != shards.fingerprint():
        raise InputError(
            f"{path} was stored for other samples ({document['samples']}) than the {shards.samples} in "
            f"{shards.files[0].parent}; copy the very files that it was stored from, or store it again"
        )
    return StoredSide(
        path=path,
        calls={digest: number for number, digest in enumerate(document["calls"])},
        outputs=tuple(document["outputs"]),
        whole=document["whole"],
        caveat=f"the golden's outputs are those stored in {path.name}; layers are not compared",
    )


@dataclass(frozen=True)
class StoredSide:
    """Replays stored outputs. `calls`: what each feed of a run hashes to -> its number in the file."""

    path: Path
    calls: Mapping[str, int]
    outputs: tuple[str, ...]
    whole: bool
    caveat: str | None
    name: str = field(default="golden", init=False)
    shows: Shows = field(default="outputs", init=False)
    layer_bytes: int | None = field(default=None, init=False)
    dissection: None = field(default=None, init=False)
    profiles: Mapping[str, InputSection] = field(default_factory=dict, init=False)

    @contextmanager
    def shipped(self, tensors: Sequence[str]) -> Iterator[Runner]:
        with _opened(self.path) as file:
            yield _Replay(self, file, tensors)

    def showing(self, tensors: Sequence[str]) -> AbstractContextManager[Runner]:
        """As `shipped`: there are no activations."""
        return self.shipped(tensors)


class _Replay:
    """A runner that looks its outputs up, by what it is fed."""

    def __init__(self, side: StoredSide, file: Any, tensors: Sequence[str]) -> None:
        self.name, self._side, self._file, self._tensors = side.name, side, file, tensors
        self._keys = set(file.keys())

    def infer(self, feed_dict: dict[str, Any], check_inputs: bool = False) -> Tensors:
        number = self._side.calls.get(of_tensors(feed_dict))
        if number is None:
            raise InputError(f"{self._side.path} has no outputs for this sample; store it again")
        keys = {tensor: _key(number, tensor) for tensor in self._tensors}
        return {tensor: self._file.get_tensor(key) for tensor, key in keys.items() if key in self._keys}


Entry = tuple[str, np.dtype[Any], tuple[int, ...], str]
"""A tensor's key in the file, what it is, and the SHA-256 of it."""


def _record(
    data: IO[bytes], model: Model, golden: Side, shards: ShardSet, made_by: Mapping[str, Any]
) -> tuple[list[Entry], dict[str, Any]]:
    """Write the outputs of every run that a check makes of its golden: each sample, and where a fixed batch
    holds several the first batch moved on by one too."""
    tensors, calls = outputs_of(model, golden.whole), dict[str, int]()
    entries: list[Entry] = []
    with golden.shipped(tensors) as active:
        for index, batch in enumerate(track(shards.batches(1), "storing, samples", shards.samples, _size)):
            runs = [batch.feeds]
            if index == 0 and shards.batched and len(next(iter(batch.feeds.values()))) > 1:
                runs.append(moved_on(batch.feeds))
            for feeds in runs:
                called = of_tensors(feeds)
                if called in calls:
                    continue
                number = calls.setdefault(called, len(calls))
                outputs = infer(active, feeds, batch.names[0])
                for tensor in tensors:
                    array = _storable(tensor, outputs, golden)
                    key = _key(number, tensor)
                    entries.append((key, array.dtype, array.shape, of_tensors({key: array})))
                    data.write(array.reshape(-1).data)
    return entries, {
        "schema_version": SCHEMA_VERSION,
        "model": model.sha256,
        "shards": shards.fingerprint(),
        "samples": shards.samples,
        "outputs": list(golden.outputs),
        "whole": golden.whole,
        "calls": list(calls),
        "made_by": {"side": golden.name, "trtbuild": trtbuild.__version__, **made_by},
    }


def _storable(tensor: str, outputs: Tensors, golden: Side) -> NDArray[Any]:
    if tensor not in outputs:
        raise InputError(f"the {golden.name} does not have output {tensor!r}; there is nothing to store")
    array = outputs[tensor]
    if not storable(array):
        raise InputError(
            f"output {tensor!r} of dtype {array.dtype} cannot be stored, nor compared as numbers"
        )
    return np.ascontiguousarray(array).reshape(array.shape)


def _holds_golden(path: Path) -> bool:
    with suppress(InputError), _opened(path) as file:
        return DOCUMENT in (file.metadata() or {})
    return False


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise _damaged(path, one_line(error)) from error
    with file as entered:
        yield entered


def _document(path: Path, file: Any) -> dict[str, Any]:
    """What the file says of itself, verified together with its tensors."""
    metadata = file.metadata() or {}
    if DOCUMENT not in metadata:
        raise InputError(f"{path} holds no golden outputs; make such a file with --save-golden")
    text = metadata[DOCUMENT]
    try:
        document: dict[str, Any] = json.loads(text)
        version = document["schema_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(path, "what it says of itself is not readable") from error
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path} is of schema_version {version}, this trtbuild reads {SCHEMA_VERSION}; store it again"
        )
    seen = _checksum(text, ((key, of_tensors({key: file.get_tensor(key)})) for key in file.keys()))  # noqa: SIM118
    if seen != metadata.get(CHECKSUM):
        raise _damaged(path, "its SHA-256 differs")
    if missing := FIELDS - document.keys():
        raise _damaged(path, f"it does not say {', '.join(sorted(missing))}")
    return document


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} is damaged or no file of golden outputs ({why}); copy or store it again")


def _checksum(text: str, digests: Iterable[tuple[str, str]]) -> str:
    """Over the document, and the digests of the tensors in the order of their names."""
    return of_json([text, *sorted(digests)])


def _key(call: int, tensor: str) -> str:
    return f"{call}:{tensor}"


def _size(batch: Batch) -> int:
    return len(batch.names)

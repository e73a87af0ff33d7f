"""What a calibration has counted so far, in a file: after a crash it goes on from there."""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibrators.errors import CalibratorError
from calibrators.histogram import Histogram
from calibrators.whole_file import replacing
from trtbuild.collect.spans import Span, joined
from trtbuild.errors import one_line
from trtbuild.progress import say

SECONDS = 10.0
"""Between two checkpoints, or twenty times what writing one takes."""
SCHEMA_VERSION = 1
DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, CalibratorError)


@dataclass(frozen=True)
class Origin:
    """What the counts are of. `model`, `shards`: their hashes; `passes`: what was run and how, as JSON."""

    model: str
    shards: str
    passes: str


class Checkpoint:
    """The counts of one pass over the samples. Without a path nothing is kept.

    histograms: by tensor, those of the batches in `done`.
    """

    def __init__(self, path: Path | None, origin: Origin, tensors: tuple[str, ...]) -> None:
        """Take up what is at `path`; begin anew where there is nothing. So where it is damaged, or of another
        model, other shards or other passes, which is said.
        """
        self._path, self._origin = path, origin
        self._last, self._cost = time.monotonic(), 0.0
        self.done: list[Span] = []
        self.histograms = {tensor: Histogram() for tensor in tensors}
        if path is not None and os.path.exists(path):  # Path.exists raises where it may not look
            self._load(path)

    def add(self, span: Span, counted: Mapping[str, Histogram] | None = None) -> None:
        """A span is done: its counts are `counted`, or in `histograms` already. Written now and then."""
        for tensor, histogram in (counted or {}).items():
            self.histograms[tensor].merge(histogram)
        self.done = joined([*self.done, span])
        self._save_after(max(SECONDS, 20 * self._cost))

    def finish(self) -> None:
        """All is done, and other passes follow: write what took a second or more."""
        self._save_after(min(SECONDS, 1.0))

    def _save_after(self, seconds: float) -> None:
        if self._path is not None and time.monotonic() - self._last >= seconds:
            self._save(self._path)

    def _save(self, path: Path) -> None:
        """Write all of it. That there is no room for it stops nothing: it is said, and not tried again."""
        started = time.monotonic()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as stream:
                np.savez(stream, **self._arrays())
        except OSError as error:
            say(f"note: {path} cannot be written ({error.strerror or error}): killed, this would begin anew")
            self._path = None
        self._last = time.monotonic()
        self._cost = self._last - started

    def _arrays(self) -> dict[str, Any]:
        document = {
            "trtbuild.checkpoint": SCHEMA_VERSION,
            "origin": asdict(self._origin),
            "done": self.done,
        }
        arrays: dict[str, Any] = {"document": np.frombuffer(json.dumps(document).encode(), np.uint8)}
        for index, histogram in enumerate(self.histograms.values()):
            arrays |= {f"{index}.{name}": array for name, array in histogram.to_arrays().items()}
        return arrays

    def _load(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                document = json.loads(arrays["document"].tobytes())
                if document["trtbuild.checkpoint"] != SCHEMA_VERSION:
                    raise ValueError(f"version {document['trtbuild.checkpoint']!r}, not {SCHEMA_VERSION}")
                origin = Origin(**document["origin"])
                if origin != self._origin:
                    say(f"note: {path} is of {self._other(origin)}; counting begins anew")
                    return
                done = _spans(document["done"])
                histograms = {
                    tensor: Histogram.from_arrays(_part(arrays, index))
                    for index, tensor in enumerate(self.histograms)
                }
        except DAMAGED as error:
            say(f"note: {path} is no whole checkpoint ({one_line(error)}); counting begins anew")
            return
        self.done, self.histograms = done, histograms

    def _other(self, origin: Origin) -> str:
        if origin.model != self._origin.model:
            return "another model"
        return (
            "other shards" if origin.shards != self._origin.shards else "other tensors, batches or versions"
        )


def _spans(found: Any) -> list[Span]:
    """Spans in order, none of which is empty or overlaps another. Raises ValueError for anything else."""
    spans = [(int(start), int(stop)) for start, stop in found]
    ends = [0, *(end for span in spans for end in span)]
    if ends != sorted(ends) or any(start == stop for start, stop in spans):
        raise ValueError(f"batches {found}")
    return spans


def _part(arrays: Any, index: int) -> dict[str, Any]:
    prefix = f"{index}."
    return {name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)}

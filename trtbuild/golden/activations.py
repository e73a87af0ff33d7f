"""Golden activations on disk: a second check of the same samples reads what the first one ran."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from calibrators.whole_file import replacing
from trtbuild.collect.counting import cores
from trtbuild.digest import of_json, of_tensors
from trtbuild.errors import InputError, one_line
from trtbuild.golden import tensor_file
from trtbuild.progress import say
from trtbuild.targets.base import Runner, Side
from trtbuild.targets.session import Tensors
from trtbuild.targets.wrapped import WrappedSide

FORMAT = 1  # of the files: those of another one are not looked at
SUFFIX = ".safetensors"
GIGABYTE = 10**9
_NAME = r"[0-9a-f]{32}-[0-9a-f]{8}\.safetensors"
OURS = re.compile(rf"[0-9a-f]{{16}}/({_NAME}|\.{_NAME}\.[0-9a-f]+\.tmp)")
ABANDONED_SECONDS = 24 * 3600


class Activations:
    """The store of one engine's golden activations: a folder for each golden, files for each sample.

    folder: where; made when something is kept. golden: all that the golden's numbers depend on, but for the
    samples. limit: bytes that all files together may take; those that nobody asked for longest make room, a
    sample that finds none is run again each time.
    """

    def __init__(self, folder: Path, golden: Mapping[str, Any], limit: float) -> None:
        key = of_json([FORMAT, golden])[:16]
        self._root, self._folder, self._limit = folder, folder / key, limit
        self._asked: set[str] = set()
        self._read: set[str] = set()
        self._kept: set[str] = set()
        self._missed: set[str] = set()
        self._refused = False

    def recall(self, sample: str, tensors: Sequence[str], pool: Executor) -> Tensors | None:
        """These tensors of a sample, mapped into memory, read-only, but for those that the golden did not
        show when it was asked for them; None unless all are known.

        Raises InputError, naming it, for a damaged file.
        """
        self._asked.add(sample)
        found: Tensors = {}
        absent: set[str] = set()
        for path in self._folder.glob(f"{sample}-*{SUFFIX}"):
            with suppress(FileNotFoundError):  # another check has made room
                kept = tensor_file.mapped(path, pool, set(tensors) - found.keys())
                found |= kept.tensors
                absent |= kept.absent
                os.utime(path)
        if not found.keys() | absent >= set(tensors):
            return None
        self._read.add(sample)
        return found

    def keep(self, sample: str, tensors: Tensors, asked: Sequence[str], pool: Executor) -> None:
        """What was shown of those that were `asked` for, where there is room. What stands in the way is said,
        and does not stop the check."""
        self._missed.add(sample)
        if self._refused:
            return
        names = of_json(sorted(asked))[:8]
        try:
            if not self._make_room(tensor_file.size_of(tensors, asked)):
                return
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._folder / f"{sample}-{names}{SUFFIX}", durable=False) as stream:
                tensor_file.write(stream, tensors, set(asked) - tensors.keys(), pool)
        except (OSError, InputError) as error:
            say(f"note: golden activations are not kept: {one_line(error)}")
            self._refused = True
        else:
            self._missed.discard(sample)
            self._kept.add(sample)

    def say_what_is_kept(self) -> None:
        """A line each on what was read, kept, and not kept."""
        kept, read = self._kept - self._missed, self._read - self._kept - self._missed
        if read:
            say(f"golden activations: {len(read)} samples read from {self._folder}")
        if kept:
            used = sum(file.size for file in self._files()) / GIGABYTE
            say(f"golden activations: {len(kept)} samples kept in {self._folder}, {used:.1f} GB in all")
        if self._missed:
            why = "" if self._refused else f"; validation.golden_disk_gb is {self._limit / GIGABYTE:g}"
            say(f"golden activations: {len(self._missed)} samples not kept, to be run again{why}")

    def _make_room(self, size: int) -> bool:
        """For another `size` bytes: files of samples that this run has not asked for go, those first that
        were not asked for longest; and what checks that were killed left behind."""
        files = self._files()
        used = sum(file.size for file in files)
        free = sorted((file for file in files if not self._is_asked(file.path)), key=lambda file: file.used)
        for file in free:
            abandoned = file.path.suffix != SUFFIX and time.time() - file.used > ABANDONED_SECONDS
            if abandoned or (used + size > self._limit and file.path.suffix == SUFFIX):
                file.path.unlink(missing_ok=True)
                used -= file.size
        return used + size <= self._limit

    def _is_asked(self, path: Path) -> bool:
        return path.parent == self._folder and path.name.partition("-")[0] in self._asked

    def _files(self) -> list[_File]:
        """Those of the store, unfinished ones too, and no others that lie there."""
        found = []
        for path in self._root.glob("*/*"):
            if OURS.fullmatch(f"{path.parent.name}/{path.name}"):
                with suppress(FileNotFoundError):  # another check makes room too
                    stat = path.stat()
                    found.append(_File(path, stat.st_size, stat.st_mtime))
        return found


class _File(NamedTuple):
    """used: when it was last read or written, seconds."""

    path: Path
    size: int
    used: float


class RecalledSide(WrappedSide):
    """A side whose activations are taken from the store where it has them."""

    def __init__(self, side: Side, store: Activations) -> None:
        super().__init__(side)
        self._store = store

    @contextmanager
    def showing(self, tensors: Sequence[str]) -> Iterator[Runner]:
        """The side itself is set up, and run, only for samples that are not in the store."""
        with ThreadPoolExecutor(cores()) as pool, ExitStack() as stack:
            yield _Recalling(self._side, self._store, tensors, pool, stack)


class _Recalling:
    """A runner that looks first whether it has run the same before."""

    def __init__(
        self, side: Side, store: Activations, tensors: Sequence[str], pool: Executor, stack: ExitStack
    ) -> None:
        self.name = side.name
        self._side, self._store, self._tensors = side, store, tensors
        self._pool, self._stack = pool, stack
        self._active: Runner | None = None

    def infer(self, feed_dict: dict[str, Any], check_inputs: bool = False) -> Mapping[str, Any]:
        sample = of_tensors(feed_dict)[:32]
        recalled = self._store.recall(sample, self._tensors, self._pool)
        if recalled is not None:
            return recalled
        if self._active is None:
            self._active = self._stack.enter_context(self._side.showing(self._tensors))
        shown = dict(self._active.infer(feed_dict, check_inputs=check_inputs))
        self._store.keep(sample, shown, self._tensors, self._pool)
        return shown

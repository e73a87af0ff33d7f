"""What TensorRT's builder calls while it calibrates, and what is asked afterwards. No TensorRT in here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from calibrators.errors import CalibratorError
from calibrators.feed import Feed
from calibrators.table import Range, RangeTable, TableKey

Algorithm = Literal["entropy", "minmax"]


class Memory(Protocol):
    """Where TensorRT reads a batch from."""

    def fill(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, int]:
        """Copy C-contiguous arrays in, of the same names and sizes every time; return their addresses."""

    def close(self) -> None:
        """Free it. It may be filled again."""


class ShardCalibrator:
    """Serves a Feed to TensorRT, and keeps what went wrong and the cache that TensorRT wrote.

    Of what TensorRT calls, nothing raises: the binding prints an exception of `get_batch` and takes it for
    the end of the samples, and one of `write_calibration_cache` it only prints. `check` raises it instead.

    error: what was raised while TensorRT called, KeyboardInterrupt included; None where all went well.
    """

    def __init__(
        self, algorithm: Algorithm, feed: Feed, memory: Memory, progress: Callable[[int], None] | None
    ) -> None:
        self.feed = feed
        self.error: BaseException | None = None
        self._algorithm = algorithm
        self._memory = memory
        self._progress = progress
        self._batches: Iterator[dict[str, NDArray[Any]]] | None = None
        self._served = 0
        self._cache = b""

    def get_batch_size(self) -> int:
        return self.feed.batch

    def get_batch(self, names: Sequence[str]) -> list[int] | None:
        """Return the addresses of the next batch in the order of `names`; None at the end, or to stop."""
        if self.error is not None:
            return None
        try:
            return self._next(names)
        except BaseException as error:
            self.error = error
            return None

    def read_calibration_cache(self) -> None:
        """Return nothing, so that TensorRT calibrates anew in every build, from the first sample on.

        It would take any cache whose header fits, also one of another model or of other shards. Ranges that
        are known already go into a build as dynamic ranges, without a calibrator.
        """
        self._batches = None

    def write_calibration_cache(self, cache: memoryview) -> None:
        try:
            self._cache = bytes(cache)  # a copy: the memory is TensorRT's
        except BaseException as error:
            self.error = self.error or error

    def check(self) -> None:
        """Raise whatever kept TensorRT from calibrating on all samples. Call it after every build.

        Raises `error` as it was; CalibratorError when TensorRT asked for no batch, for fewer than there
        are, or wrote no cache.
        """
        if self.error is not None:
            raise self.error
        if self._served == 0:
            raise CalibratorError(
                "TensorRT asked for no calibration batch: it was not given the calibrator, int8 is off, or "
                "every tensor has a range already"
            )
        if self._served < self.feed.batches:
            first = self.feed.sample_name(self._served * self.feed.batch)
            raise CalibratorError(
                f"TensorRT took {self._served} of {self.feed.batches} calibration batches; the first sample "
                f"that it did not take is {first}; see TensorRT's own messages"
            )
        if not self._cache:
            raise CalibratorError(
                "TensorRT took every calibration batch but wrote no ranges; see TensorRT's own messages"
            )

    def cache(self) -> str:
        """Return the calibration cache that TensorRT wrote. Raises as `check` does, and CalibratorError
        when it is no text."""
        self.check()
        try:
            return self._cache.decode()
        except UnicodeDecodeError as exc:
            raise CalibratorError(f"the calibration cache that TensorRT wrote is no text: {exc}") from exc

    def table(self, key: TableKey | None = None) -> RangeTable:
        """Return the ranges that TensorRT found, as of method "tensorrt-entropy" or "tensorrt-minmax".

        Raises as `cache` does, and TableError when a line of it is malformed or no finite range.
        """
        _, found = RangeTable.from_tensorrt_cache(self.cache())
        method = f"tensorrt-{self._algorithm}"
        ranges = {name: Range(entry.amax, method) for name, entry in found.ranges.items()}
        return RangeTable(ranges, key, self.feed.samples)

    def close(self) -> None:
        """Free the memory. Not before the build has ended: TensorRT reads there."""
        self._memory.close()

    def __enter__(self) -> ShardCalibrator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self, names: Sequence[str]) -> list[int] | None:
        # It may ask for fewer than the shards have: an input that no layer reads is none of the engine's.
        unknown = [name for name in names if name not in self.feed.names]
        if unknown or not names or len(set(names)) < len(names):
            raise CalibratorError(
                f"TensorRT asks for the inputs {list(names)}, the shards have {list(self.feed.names)}; "
                "make shards for the model that is built"
            )
        if self._batches is None:
            self._batches, self._served, self._cache = iter(self.feed), 0, b""
        arrays = next(self._batches, None)
        if arrays is None:
            return None
        addresses = self._memory.fill(arrays)
        self._served += 1
        if self._progress is not None:
            self._progress(min(self._served * self.feed.batch, self.feed.samples))
        return [addresses[name] for name in names]

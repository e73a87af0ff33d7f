"""ITimingCache: bytes with a header that names the version and the device."""

from __future__ import annotations

from typing import Any

from .native import Crash, Native, expect

_MAGIC = b"trt-timing-cache"


class TimingCache(Native):
    __slots__ = ("_device", "_entries", "_version")

    @classmethod
    def _read(cls, data: bytes) -> Any:
        """A cache from what `serialize` gave; empty bytes make a new one. Garbage becomes a cache without a
        body, which only `set_timing_cache` looks for."""
        behaviour = cls._trt._behaviour
        if not data:
            return cls._make(_version=cls._trt.__version__, _device=behaviour.gpu, _entries=set())
        parts = data.split(b"\n")
        if parts[0] != _MAGIC:
            return cls._make(_version=None, _device=None, _entries=set())
        version, device, *entries = (part.decode() for part in parts[1:])
        return cls._make(_version=version, _device=device, _entries=set(entries))

    def serialize(self) -> Any:
        parts = [_MAGIC, *(str(p).encode() for p in (self._version, self._device, *sorted(self._entries)))]
        return self._trt.IHostMemory._of(b"\n".join(parts))

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        if expect(input_cache, type(self), "combine")._version is None:
            raise Crash("combine reads a timing cache without a body")
        if input_cache._misfit(ignore_mismatch):
            return False
        self._entries |= input_cache._entries
        return True

    def reset(self) -> bool:
        self._entries.clear()
        return True

    def _misfit(self, ignore_mismatch: bool) -> str:
        """The version must be the same in any case; only the device may differ."""
        if self._version != self._trt.__version__:
            return "The incoming ITimingCache is built from a different TensorRT version."
        if not ignore_mismatch and self._device != self._trt._behaviour.gpu:
            return "The UUID in incoming ITimingCache is different from current device."
        return ""

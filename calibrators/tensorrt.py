"""TensorRT's own calibrators, IInt8EntropyCalibrator2 and IInt8MinMaxCalibrator (8.5 to 10), fed from shards
through memory of the GPU. The only module that knows pycuda."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrators.errors import CalibratorError, DeviceError
from calibrators.feed import Feed
from calibrators.serve import Algorithm, Memory, ShardCalibrator
from calibrators.shards import ShardSet

__all__ = ["Algorithm", "DeviceMemory", "ShardCalibrator", "shard_calibrator"]

_BASES: dict[Algorithm, str] = {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}


def shard_calibrator(
    binding: Any,
    algorithm: Algorithm,
    shards: ShardSet,
    opt: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, np.dtype[Any]],
    device: int = 0,
    progress: Callable[[int], None] | None = None,
    memory: Memory | None = None,
) -> ShardCalibrator:
    """Return a calibrator of `binding`, the tensorrt module, that serves all of `shards`.

        with shard_calibrator(trt, "entropy", shards, opt, dtypes) as calibrator:
            config.int8_calibrator = calibrator
            plan = builder.build_serialized_network(network, config)
            calibrator.check()

    opt: input name -> the full OPT shape of the calibration profile, static inputs too. dtypes: input name
    -> what TensorRT reads: float32 for every float, int32 or (TensorRT 10) int64 for integers, bool.
    device: the GPU that TensorRT builds on. progress: is told how many samples have been served so far; what
    it raises stops the calibration and is raised again by `check`. memory: GPU memory by default.

    Raises CalibratorError when `binding` has no such calibrator or the shapes and dtypes do not fit, its
    ShardError for samples of another shape than OPT, and its DeviceError where pycuda cannot be imported.
    """
    base = getattr(binding, _BASES[algorithm], None)
    if base is None:
        raise CalibratorError(
            f"TensorRT {binding.__version__} has no {_BASES[algorithm]}: it quantizes by Q/DQ in the graph "
            "alone; build in explicit mode, or with TensorRT 8.5 to 10"
        )
    feed = Feed(shards, opt, dtypes)
    where = DeviceMemory(device) if memory is None else memory

    class Calibrator(ShardCalibrator, base):  # type: ignore[valid-type,misc]  # a base known at run time only
        def __init__(self) -> None:
            base.__init__(self)  # type: ignore[misc]  # without this very call the binding refuses it
            ShardCalibrator.__init__(self, algorithm, feed, where, progress)

    return Calibrator()


class DeviceMemory:
    """A buffer on the GPU per input, in the device's primary context: the one of CUDA's runtime, so of
    TensorRT, Polygraphy and torch. Allocated when it is first filled.

    Raises DeviceError when pycuda cannot be imported, and, where it is used, for CUDA's errors.
    """

    def __init__(self, device: int) -> None:
        self._device = device
        self._cuda = _import_pycuda()
        self._buffers: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}

    def fill(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, int]:
        with self._context():
            for name, array in arrays.items():
                if name not in self._buffers:
                    self._buffers[name] = self._cuda.mem_alloc(max(array.nbytes, 1))  # 0 is an error to CUDA
                    self._sizes[name] = array.nbytes
                if array.nbytes != self._sizes[name] or not array.flags.c_contiguous:
                    raise ValueError(f"{name!r}: {array.nbytes} bytes for a buffer of {self._sizes[name]}")
                if array.nbytes:
                    self._cuda.memcpy_htod(self._buffers[name], array)
            self._cuda.Context.synchronize()  # TensorRT reads on a stream of its own
        return {name: int(buffer) for name, buffer in self._buffers.items()}

    def close(self) -> None:
        if self._buffers:
            with self._context():
                for buffer in self._buffers.values():
                    buffer.free()
                self._buffers = {}

    @contextmanager
    def _context(self) -> Iterator[None]:
        """Make the primary context current; afterwards the one that was."""
        cuda = self._cuda
        try:
            context = _primary_context(self._device)
            context.push()
            try:
                yield
            finally:
                cuda.Context.pop()
        except cuda.MemoryError as exc:
            raise DeviceError(
                f"the GPU has no room for a calibration batch ({exc}); use a smaller batch in opt, a smaller "
                "workspace, or stop other programs on the GPU"
            ) from exc
        except cuda.Error as exc:
            raise DeviceError(f"CUDA failed while TensorRT was fed ({exc}); see nvidia-smi") from exc


@cache
def _primary_context(device: int) -> Any:
    """Return the primary context of a device, retained until the process ends, as CUDA's runtime does.

    Not pycuda's `detach`, which would be for letting go earlier: it leaves the context on top of the thread's
    stack, because it counts on CUDA to pop it, and releasing a primary context pops nothing.
    """
    cuda = _import_pycuda()
    cuda.init()
    return cuda.Device(device).retain_primary_context()


def _import_pycuda() -> Any:
    try:
        import pycuda.driver
    except (ImportError, OSError) as exc:
        remedy = (
            "pip install 'trtbuild[tensorrt]', on a Jetson pip install pycuda (which compiles it there)"
            if isinstance(exc, ModuleNotFoundError)
            else "check NVIDIA's driver with nvidia-smi, or compile pycuda for the CUDA that is here: "
            "pip install --force-reinstall --no-cache-dir pycuda"
        )
        raise DeviceError(
            f"TensorRT's own calibrators are fed through pycuda, which does not load ({exc}); {remedy}"
        ) from exc
    return pycuda.driver

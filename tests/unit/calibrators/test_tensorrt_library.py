"""The calibrator in the real TensorRT library, which makes one without a GPU; only a builder needs that.

What the builder would call, the tests call: the virtual functions of the C++ object, as the builder does.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from calibrators.cache import cache_header, parse_cache_header
from calibrators.errors import CalibratorError
from calibrators.tensorrt import shard_calibrator

try:
    import tensorrt as trt

    WHY = (
        ""
        if hasattr(trt, "IInt8EntropyCalibrator2")
        else "this TensorRT has no calibrators (11 removed them)"
    )
except (ImportError, OSError) as error:
    trt, WHY = None, f"TensorRT cannot be imported: {error}"

pytestmark = [pytest.mark.tensorrt, pytest.mark.skipif(bool(WHY), reason=WHY)]

F32 = np.dtype("float32")
POINTER = ctypes.sizeof(ctypes.c_void_p)


@pytest.fixture
def make(shard_set, host_memory) -> Callable[..., Any]:
    """A calibrator over five samples x (two floats each) and y (one integer), two to a batch."""
    x = np.arange(10, dtype=F32).reshape(5, 2)
    y = np.arange(5, dtype=np.int64).reshape(5, 1)
    shards = shard_set({"x": x[:3], "y": y[:3]}, {"x": x[3:], "y": y[3:]})

    def calibrator(algorithm: str = "entropy", **options: Any) -> Any:
        opt, dtypes = {"x": (2, 2), "y": (2, 1)}, {"x": F32, "y": np.dtype("int32")}
        return shard_calibrator(trt, algorithm, shards, opt, dtypes, memory=host_memory, **options)

    return calibrator


class TestInPython:
    @pytest.mark.parametrize(
        ("algorithm", "base", "named"),
        [
            ("entropy", "IInt8EntropyCalibrator2", "ENTROPY_CALIBRATION_2"),
            ("minmax", "IInt8MinMaxCalibrator", "MINMAX_CALIBRATION"),
        ],
    )
    def test_is_a_calibrator_of_tensorrt(self, make, algorithm, base, named):
        calibrator = make(algorithm)
        assert isinstance(calibrator, getattr(trt, base))
        assert isinstance(calibrator, trt.IInt8Calibrator)
        assert calibrator.get_algorithm() == getattr(trt.CalibrationAlgoType, named)
        assert calibrator.get_batch_size() == 2
        assert calibrator.read_calibration_cache() is None

    def test_the_number_in_a_cache_header_is_that_of_the_library(self):
        library = ctypes.CDLL(
            f"libnvinfer.so.{trt.__version__.split('.')[0]}"
        )  # loaded by the import already
        number = library.getInferLibVersion()
        assert parse_cache_header(cache_header(trt.__version__)).version == str(number)

    def test_a_class_that_forgets_the_base_is_refused(self):
        class Forgetful(trt.IInt8EntropyCalibrator2):
            def __init__(self) -> None:
                pass

        with pytest.raises(TypeError, match="must be called when overriding __init__"):
            Forgetful()


class Native:
    """The C++ object behind a calibrator, called as the builder calls it: through its virtual functions.

    Their order is that of NvInfer.h 8.5 (IInt8Calibrator); the object's address is what pybind11 keeps
    behind the header of the Python object.
    """

    def __init__(self, calibrator: object) -> None:
        self._object = _pointer_at(id(calibrator) + object.__basicsize__)
        self._keep = calibrator

    def get_batch_size(self) -> int:
        return int(self._call(0, ctypes.c_int32))

    def get_batch(self, *names: str) -> list[int] | None:
        """The addresses that arrive on the other side; None where it is told that there are no more."""
        bindings = (ctypes.c_void_p * len(names))()
        texts = (ctypes.c_char_p * len(names))(*(name.encode() for name in names))
        more = self._call(
            1,
            ctypes.c_bool,
            *(ctypes.c_void_p(ctypes.addressof(bindings)), ctypes.c_void_p(ctypes.addressof(texts))),
            ctypes.c_int32(len(names)),
        )
        return [int(binding or 0) for binding in bindings] if more else None

    def read_calibration_cache(self) -> int | None:
        length = ctypes.c_size_t()
        return self._call(2, ctypes.c_void_p, ctypes.c_void_p(ctypes.addressof(length)))  # type: ignore[no-any-return]

    def write_calibration_cache(self, text: bytes) -> None:
        memory = ctypes.create_string_buffer(text, len(text))
        self._call(3, None, ctypes.c_void_p(ctypes.addressof(memory)), ctypes.c_size_t(len(text)))
        ctypes.memset(memory, 0, len(text))

    def get_algorithm(self) -> int:
        return int(self._call(4, ctypes.c_int32))

    def _call(self, index: int, result: Any, *arguments: Any) -> Any:
        address = _pointer_at(_pointer_at(self._object) + index * POINTER)
        types: Sequence[Any] = [type(argument) for argument in arguments]
        return ctypes.CFUNCTYPE(result, ctypes.c_void_p, *types)(address)(self._object, *arguments)


def _pointer_at(address: int) -> int:
    return ctypes.c_void_p.from_address(address).value or 0


def read(address: int, dtype: str, *shape: int) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(ctypes.string_at(address, size), dtype).reshape(shape)


@pytest.mark.skipif(
    trt is None or not trt.__version__.startswith("8.5.") or sys.platform != "linux",
    reason="the virtual functions are called by their places in TensorRT 8.5",
)
class TestThroughTheBinding:
    def test_a_whole_calibration(self, make, capfd):
        calibrator = make()
        native = Native(calibrator)
        assert native.get_algorithm() == int(trt.CalibrationAlgoType.ENTROPY_CALIBRATION_2)
        assert native.get_batch_size() == 2
        assert native.read_calibration_cache() is None
        xs, ys = [], []
        while (addresses := native.get_batch("y", "x")) is not None:
            ys.append(read(addresses[0], "int32", 2, 1))
            xs.append(read(addresses[1], "float32", 2, 2))
        native.write_calibration_cache(b"TRT-8501-EntropyCalibration2\nx: 3c010204\nflat: 0\n")
        calibrator.check()
        assert_array_equal(np.concatenate(xs).ravel(), [*range(10), 0, 1])
        assert_array_equal(np.concatenate(ys).ravel(), [0, 1, 2, 3, 4, 0])
        assert calibrator.cache() == "TRT-8501-EntropyCalibration2\nx: 3c010204\nflat: 0\n"
        assert {name: entry.amax for name, entry in calibrator.table().ranges.items()} == {
            "x": pytest.approx(1, abs=1e-6),
            "flat": 0,
        }
        assert "Exception caught" not in capfd.readouterr().err

    @pytest.mark.parametrize("raised", [KeyboardInterrupt(), ValueError("bug")])
    def test_what_is_raised_reaches_the_caller_and_not_the_binding(self, make, raised, capfd):
        def progress(_: int) -> None:
            raise raised

        calibrator = make(progress=progress)
        native = Native(calibrator)
        assert native.get_batch("x", "y") is None
        assert "Exception caught" not in capfd.readouterr().err
        with pytest.raises(type(raised)) as error:
            calibrator.check()
        assert error.value is raised

    def test_inputs_of_another_model(self, make):
        calibrator = make()
        assert Native(calibrator).get_batch("x", "z") is None
        with pytest.raises(CalibratorError, match=r"asks for the inputs \['x', 'z'\]"):
            calibrator.check()

    def test_why_nothing_may_be_raised_in_there(self, capfd):
        class Raising(trt.IInt8MinMaxCalibrator):
            def __init__(self) -> None:
                trt.IInt8MinMaxCalibrator.__init__(self)

            def get_batch(self, names: list[str]) -> list[int]:
                raise KeyboardInterrupt

        assert Native(Raising()).get_batch("x") is None  # the end of the samples, and nothing else
        assert "Exception caught in get_batch(): KeyboardInterrupt" in capfd.readouterr().err

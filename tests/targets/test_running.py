"""Running an engine through Polygraphy's own runner, above a TensorRT and a CUDA that need no GPU."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.targets.runtime_double import Arrays, HostCuda, Plan, Runtime, install
from trtbuild.errors import InputError, MachineError
from trtbuild.targets.trt import running
from trtbuild.targets.trt.running import open_engine, read

X = {"x": np.array([[1, 2], [3, 4]], np.float32)}
AMPERE = (
    "6: The engine plan file is generated on an incompatible device, expecting compute 8.6 got compute 7.5, "
    "please rebuild."
)
OLDER = (
    "6: The engine plan file is not compatible with this version of TensorRT, expecting library version "
    "10.13.0 got 8.5.1.7, please rebuild."
)
OTHER = "Using an engine plan file across different models of devices is not recommended"
MEMORY = "1: [defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, HostCuda]:
    monkeypatch.setattr(running, "require_gpu", lambda: None)
    return install(monkeypatch)


def no_gpu() -> None:
    raise MachineError("no NVIDIA GPU: its driver does not load")


def simple(inputs: Arrays) -> Arrays:
    return {"y": inputs["x"] * 2, "h": inputs["x"] + 1}


def plan(run: Callable[[Arrays], Arrays] = simple, **fields: Any) -> Any:
    return Plan({"x": ("FLOAT", (-1, 2))}, {"y": ("FLOAT", (-1, 2))}, run, **fields)


def open_plan(trt: ModuleType, plan: Any, debug: tuple[str, ...] = ()) -> Any:
    return open_engine(trt, plan, "candidate", debug)  # type: ignore[arg-type]


def test_an_engine_runs(gpu: Any) -> None:
    with open_plan(gpu[0], plan()) as engine:
        assert engine.outputs == ("y",)
        assert list(engine.inputs) == ["x"]
        port = engine.inputs["x"]
        assert (port.dtype, port.min, port.max) == (np.float32, (1, 2), (4, 2))
        first = engine.infer(X)
        np.testing.assert_array_equal(first["y"], X["x"] * 2)
        second = engine.infer({"x": X["x"][:1] + 5})
        np.testing.assert_array_equal(second["y"], [[12, 14]])
    assert Runtime.last.engine_host_code_allowed is False


def test_arrays_of_one_run_are_reused_by_the_next(gpu: Any) -> None:
    """Polygraphy says so; if that ends, copying them may end too."""
    with open_plan(gpu[0], plan()) as engine:
        first = engine.infer(X)["y"]
        engine.infer({"x": X["x"] + 5})
        np.testing.assert_array_equal(first, (X["x"] + 5) * 2)


def test_static_shapes_have_no_profile(gpu: Any) -> None:
    fixed = Plan({"x": ("INT32", (3,))}, {"y": ("BOOL", (3,))}, lambda inputs: {"y": inputs["x"] > 1})
    with open_plan(gpu[0], fixed) as engine:
        assert (engine.inputs["x"].dtype, engine.inputs["x"].min, engine.inputs["x"].max) == (
            np.int32,
            (3,),
            (3,),
        )
        y = engine.infer({"x": np.array([1, 2, 3], np.int32)})["y"]
    assert y.dtype == np.bool_
    assert y.tolist() == [False, True, True]


def test_outputs_of_every_dtype_and_of_a_shape_that_the_data_decide(gpu: Any) -> None:
    def run(inputs: Arrays) -> Arrays:
        bits = inputs["x"].view(np.uint32)
        return {
            "half": inputs["x"].astype(np.float16),
            "brain": (bits >> 16).astype(np.uint16),
            "long": inputs["x"].astype(np.int64),
            "found": inputs["x"][inputs["x"] > 2],
            "scalar": inputs["x"].sum(dtype=np.float32).reshape(()),
        }

    dtypes = {"half": "HALF", "brain": "BF16", "long": "INT64", "found": "FLOAT", "scalar": "FLOAT"}
    outputs = {name: (dtype, (-1,)) for name, dtype in dtypes.items()}
    with open_plan(gpu[0], Plan({"x": ("FLOAT", (-1, 2))}, outputs, run)) as engine:
        found = engine.infer(X)
        assert {name: (array.dtype.name, array.shape) for name, array in found.items()} == {
            "half": ("float16", (2, 2)),
            "brain": ("float32", (2, 2)),
            "long": ("int64", (2, 2)),
            "found": ("float32", (2,)),
            "scalar": ("float32", ()),
        }
        for name in ("half", "brain", "long"):
            np.testing.assert_array_equal(found[name], X["x"])
        assert engine.infer({"x": X["x"] * 0})["found"].shape == (0,)


def test_a_dtype_that_numpy_does_not_have(gpu: Any) -> None:
    fp8 = Plan(
        {"x": ("FLOAT", (2, 2))}, {"y": ("FP8", (2, 2))}, lambda inputs: {"y": np.zeros((2, 2), np.int8)}
    )
    with (
        open_plan(gpu[0], fp8) as engine,
        pytest.raises(InputError, match="of type FP8, which cannot be read"),
    ):
        engine.infer(X)
    with (
        pytest.raises(InputError, match="takes input 'x' as FP8"),
        open_plan(gpu[0], Plan({"x": ("FP8", (2,))}, {}, simple)),
    ):
        pass


@pytest.mark.parametrize("values", [[1.5, -2.0, 0.0, 2.0**127], [np.inf, -np.inf, -0.0, 2.0**-126]])
def test_bfloat16_is_read_exactly(values: list[float]) -> None:
    wide = np.array(values, np.float32)
    buffer = (wide.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    assert read(buffer, "BF16", (2, 2)).tobytes() == wide.tobytes()


class TestDebugTensors:
    WATCHED = (("h", "FLOAT", "DEVICE"), ("i", "INT8", "DEVICE"), ("other", "FLOAT", "DEVICE"))

    @staticmethod
    def run(inputs: Arrays) -> Arrays:
        x = inputs["x"]
        return {"y": x, "h": x + 1, "i": x.astype(np.int8), "other": x, "half": x.astype(np.float16)}

    def test_those_asked_for_are_collected(self, gpu: Any) -> None:
        watched = plan(self.run, debug=[*self.WATCHED, ("half", "HALF", "HOST")])
        with open_plan(gpu[0], watched, ("h", "i", "half", "fused")) as engine:
            first = engine.infer(X)
            assert set(first) == {"y", "h", "half"}  # int8 has no scale here, and other was not asked for
            second = engine.infer({"x": X["x"][:1]})
        np.testing.assert_array_equal(first["h"], X["x"] + 1)
        np.testing.assert_array_equal(first["half"], X["x"])
        assert first["half"].dtype == np.float16
        np.testing.assert_array_equal(second["h"], X["x"][:1] + 1)

    def test_a_tensor_that_one_run_does_not_show_is_not_left_over_from_the_last(self, gpu: Any) -> None:
        watched = plan(self.run, debug=[("h", "FLOAT", "DEVICE")])
        with open_plan(gpu[0], watched, ("h",)) as engine:
            assert "h" in engine.infer(X)
            watched.debug.clear()
            assert "h" not in engine.infer(X)

    def test_of_one_name_the_first_is_taken(self, gpu: Any) -> None:
        later = plan(self.run, debug=[("h", "FLOAT", "DEVICE"), ("h", "HALF", "DEVICE")])
        with open_plan(gpu[0], later, ("h",)) as engine:
            assert engine.infer(X)["h"].dtype == np.float32

    def test_nothing_is_watched_unless_asked_for(self, gpu: Any) -> None:
        with open_plan(gpu[0], plan(self.run, debug=[*self.WATCHED])) as engine:
            assert set(engine.infer(X)) == {"y"}

    def test_what_goes_wrong_in_the_listener_is_raised_and_not_only_printed(
        self, gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with open_plan(gpu[0], plan(self.run, debug=[*self.WATCHED]), ("h",)) as engine:
            monkeypatch.setattr(running, "read", lambda *given: 1 / 0)
            with pytest.raises(MachineError, match="reading a debug tensor failed: division by zero"):
                engine.infer(X)
        assert capsys.readouterr().out == ""


class TestRefused:
    @pytest.mark.parametrize("reason", [AMPERE, OLDER])
    def test_an_engine_of_another_version_or_gpu(self, gpu: Any, reason: str) -> None:
        with pytest.raises(InputError) as refused, open_plan(gpu[0], plan(refused=reason)):
            pass
        assert str(refused.value) == (
            f"candidate: TensorRT 10.13.0 does not load this engine: {reason}; an engine runs with the "
            "TensorRT version and on the kind of GPU that it was built with: build it again here"
        )

    def test_no_gpu_goes_before_every_other_reason(self, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(running, "require_gpu", no_gpu)
        with pytest.raises(MachineError, match="no NVIDIA GPU"), open_plan(gpu[0], plan(refused=OLDER)):
            pass

    def test_no_runtime(self, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def nothing(self: Any, logger: Any) -> None:
            logger.log(gpu[0].ILogger.Severity.WARNING, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

        monkeypatch.setattr(Runtime, "__init__", nothing)
        with (
            pytest.raises(MachineError, match="candidate: TensorRT cannot run engines here: CUDA init"),
            open_plan(gpu[0], plan()),
        ):
            pass

    def test_too_little_memory(self, gpu: Any) -> None:
        for broken in (plan(refused=MEMORY), plan(no_context=MEMORY)):
            with (
                pytest.raises(MachineError, match=r"too little memory .*out of memory"),
                open_plan(gpu[0], broken),
            ):
                pass

    def test_no_cuda_runtime(self, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        from polygraphy.cuda import cuda

        def missing() -> None:
            raise OSError("libcudart.so: cannot open shared object file: No such file or directory")

        monkeypatch.setattr(cuda, "wrapper", missing)
        with (
            pytest.raises(MachineError, match=r"CUDA runtime does not load \(libcudart"),
            open_plan(gpu[0], plan()),
        ):
            pass

    def test_no_context(self, gpu: Any) -> None:
        with (
            pytest.raises(MachineError, match="does not run this engine: 4: no context"),
            open_plan(gpu[0], plan(no_context="4: no context")),
        ):
            pass

    def test_a_similar_gpu_is_told(self, gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
        with open_plan(gpu[0], plan(warning=OTHER)) as engine:
            engine.infer(X)
        assert capsys.readouterr().err == f"note: candidate: {OTHER}\n"
        with open_plan(gpu[0], plan(warning="CUDA lazy loading is not enabled")):
            pass
        assert capsys.readouterr().err == ""

    def test_real_tensorrt_rtx_says_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        trt = pytest.importorskip("tensorrt_rtx")
        monkeypatch.setattr(running, "require_gpu", lambda: None)
        with (
            pytest.raises(InputError, match=r"does not load this engine: .*magicTag"),
            open_plan(trt, b"no engine" * 100),
        ):
            pass


def test_a_run_that_fails_tells_what_tensorrt_wrote(gpu: Any, capfd: pytest.CaptureFixture[str]) -> None:
    broken = plan(fails="1: [convolution.cpp::execute::42] Error Code 1: Cuda Runtime (an illegal address)")
    with open_plan(gpu[0], broken) as engine, pytest.raises(MachineError) as failed:
        engine.infer(X)
    assert str(failed.value) == f"candidate: TensorRT does not run this engine: {broken.fails}"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("error", [None, InputError("a sample"), KeyboardInterrupt()])
def test_everything_is_freed(gpu: Any, error: BaseException | None) -> None:
    trt, cuda = gpu

    def use() -> None:
        with open_plan(trt, plan()) as engine:
            engine.infer(X)
            if error is not None:
                raise error

    if error is None:
        use()
    else:
        with pytest.raises(type(error)):
            use()
    assert cuda.streams == set()
    assert cuda.memory == {}


def test_an_error_is_not_hidden_by_one_in_freeing(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trt, cuda = gpu
    monkeypatch.setattr(cuda, "destroy_stream", lambda handle: 1 / 0)
    with pytest.raises(InputError, match="the first"), open_plan(trt, plan()):
        raise InputError("the first")
    with pytest.raises(ZeroDivisionError), open_plan(trt, plan()):
        pass


def test_polygraphy_loaded_for_another_tensorrt(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from polygraphy import config

    monkeypatch.setattr(config, "USE_TENSORRT_RTX", True)
    with pytest.raises(MachineError, match="set POLYGRAPHY_USE_TENSORRT_RTX=0"), open_plan(gpu[0], plan()):
        pass

"""Timing engines, over doubles of libcudart and of loaded engines."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.targets.cudart_double import DESTROYERS, ILLEGAL_ADDRESS, Library
from trtbuild.errors import InputError, MachineError
from trtbuild.targets.trt import cudart, timing
from trtbuild.targets.trt.cudart import Cudart
from trtbuild.targets.trt.gpu import gpu_name
from trtbuild.targets.trt.timing import ROUNDS_AT_ONCE, Timings, time_engines


class Context:
    """An execution context. It runs only what is wholly set up; else, as TensorRT does, it returns False."""

    nvtx_verbosity = "DETAILED"

    def __init__(self, engine: Engine) -> None:
        self.engine, self.shapes, self.addresses = engine, dict[str, Any](), dict[str, int]()
        self.runs = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return shape[0] <= self.engine.largest_batch

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def infer_shapes(self) -> list[str]:
        return ["t"] if "t" in self.engine.outputs else []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.engine.outputs[name]

    def get_max_output_size(self, name: str) -> int:
        return 4096

    def execute_async_v3(self, stream: int) -> bool:
        library, engine = self.engine.library, self.engine
        ready = (
            self.nvtx_verbosity == "NONE"
            and library.alive.get(stream) == "stream"
            and all(library.alive.get(self.addresses.get(n, 0)) for n in (*engine.inputs, *engine.outputs))
        )
        capturing = library.capture is not None
        if not ready or engine.refuses == "always" or (capturing and engine.refuses == "capture"):
            return False
        if capturing and engine.refuses == "interrupt":
            raise KeyboardInterrupt
        if capturing and engine.refuses == "synchronize":
            library.cudaStreamSynchronize(ctypes.c_void_p(stream))
        self.runs += 1
        library.run((engine.name, engine.cost if self.runs > 1 else 100.0))
        return True


class Engine:
    """An engine that takes `cost` milliseconds, and 100 at its first run."""

    largest_batch = 8

    def __init__(self, library: Library, name: str, cost: float, refuses: str = "nothing") -> None:
        self.library, self.name, self.cost, self.refuses = library, name, cost, refuses
        self.inputs = {"x": ("FLOAT", 4)}
        self.outputs: dict[str, tuple[int, ...]] = {"y": (2, 5)}
        self.contexts: list[Context] = []

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, index: int) -> str:
        return [*self.outputs, *self.inputs][index]

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name="INPUT" if name in self.inputs else "OUTPUT")

    def get_tensor_location(self, name: str) -> Any:
        return SimpleNamespace(name="HOST" if name == "shape" else "DEVICE")

    def get_tensor_dtype(self, name: str) -> Any:
        kind, itemsize = self.inputs.get(name, ("FLOAT", 4))
        return SimpleNamespace(name=kind, itemsize=0.5 if name == "nibbles" else itemsize)

    def create_execution_context(self) -> Context | None:
        if self.refuses == "context":
            return None
        self.contexts.append(Context(self))
        return self.contexts[-1]


BINDING: Any = SimpleNamespace(ProfilingVerbosity=SimpleNamespace(NONE="NONE"))
LOG: Any = SimpleNamespace(reason=lambda: "TensorRT's reason")
FEEDS = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}


def timed(
    library: Library, *engines: Engine, feeds: Any = None, warmup: int = 3, iterations: int = 5
) -> Timings:
    named: Any = {engine.name: engine for engine in engines}
    cuda = Cudart(library)
    return time_engines(BINDING, cuda, LOG, named, FEEDS if feeds is None else feeds, warmup, iterations)


@pytest.fixture
def library() -> Iterator[Library]:
    """A libcudart on which, after the test, nothing may be left."""
    made = Library()
    yield made
    assert_clean(made)


def assert_clean(library: Library) -> None:
    assert library.alive == {}
    assert library.capture is None


@pytest.mark.parametrize("iterations", [1, ROUNDS_AT_ONCE, ROUNDS_AT_ONCE + 1, 3 * ROUNDS_AT_ONCE - 1])
def test_every_iteration_of_every_engine(library: Library, iterations: int) -> None:
    found = timed(library, Engine(library, "a", 3.0), Engine(library, "b", 1.5), iterations=iterations)
    assert found == Timings({"a": (3.0,) * iterations, "b": (1.5,) * iterations}, "graph", None)


@pytest.mark.parametrize("refuses", ["nothing", "capture"])
def test_engines_take_turns(library: Library, refuses: str) -> None:
    engines = (Engine(library, "a", 1.0), Engine(library, "b", 1.0, refuses), Engine(library, "c", 1.0))
    timed(library, *engines, warmup=2, iterations=40)
    first, lead_ins = 3, 2 * 3
    assert "".join(library.ran) == "abc" * (len(library.ran) // 3)
    assert len(library.ran) == first + 2 * 3 + 40 * 3 + lead_ins
    assert library.calls.count("cudaGraphLaunch") == (0 if refuses == "capture" else len(library.ran) - first)


def test_graphs_are_captured_after_a_first_run(library: Library) -> None:
    """The first run takes 100 ms: captured, every replay would."""
    found = timed(library, Engine(library, "a", 2.0), warmup=0)
    assert found.milliseconds["a"] == (2.0,) * 5


@pytest.mark.parametrize(
    ("refuses", "reason"),
    [
        ("capture", "TensorRT does not run engine b: TensorRT's reason"),
        ("synchronize", "cudaStreamEndCapture answers with error 901 (the reason)"),
    ],
)
def test_one_that_cannot_be_captured_is_enqueued_as_are_all(
    library: Library, refuses: str, reason: str
) -> None:
    found = timed(library, Engine(library, "a", 3.0), Engine(library, "b", 1.0, refuses))
    assert found == Timings({"a": (3.0,) * 5, "b": (1.0,) * 5}, "enqueue", reason)
    assert library.last_error == 0


def test_a_runtime_without_graphs(library: Library) -> None:
    class Old(Library):
        def __getattr__(self, name: str) -> Any:
            if name == "cudaGraphInstantiateWithFlags":
                raise AttributeError(name)
            return super().__getattr__(name)

    old = Old()
    found = timed(old, Engine(old, "a", 3.0))
    assert (found.method, found.not_captured) == ("enqueue", "the CUDA runtime is older than 11.4")
    assert "cudaStreamBeginCapture" not in old.calls
    assert_clean(old)


def number_of_calls() -> int:
    library = Library()
    timed(library, Engine(library, "a", 1.0), Engine(library, "b", 1.0), warmup=1, iterations=2)
    return len(library.calls)


@pytest.mark.parametrize("sticky", [False, True], ids=["once", "sticky"])
def test_whichever_call_fails_it_is_told_and_nothing_is_left(sticky: bool) -> None:
    for number in range(number_of_calls()):
        library = Library(fails=number, sticky=sticky, status=ILLEGAL_ADDRESS)
        engines = (Engine(library, "a", 1.0), Engine(library, "b", 1.0))
        failed = None
        try:
            found = timed(library, *engines, warmup=1, iterations=2)
        except MachineError as error:
            failed = str(error)
        name = library.calls[number]
        in_capture = name.startswith(("cudaStreamBegin", "cudaStreamEnd", "cudaGraphInst"))
        in_cleanup = name in (*DESTROYERS, "cudaGetLastError") or (failed is None and "Synchronize" in name)
        if in_capture and not sticky:
            assert found.method == "enqueue"
            assert found.not_captured == f"{name} answers with error 700 (the reason)"
        elif not in_cleanup:
            assert failed is not None, name
            assert "answers with error 700 (the reason)" in failed
        if failed is None:
            assert found.milliseconds == {"a": (1.0, 1.0), "b": (1.0, 1.0)}
        assert_clean(library)


def test_no_memory_left() -> None:
    library = Library(fails=0)
    with pytest.raises(MachineError, match=r"cudaMalloc .* error 2 .*smaller --batch"):
        timed(library, Engine(library, "a", 1.0))
    assert_clean(library)


def test_an_interrupted_capture_is_ended(library: Library) -> None:
    with pytest.raises(KeyboardInterrupt):
        timed(library, Engine(library, "a", 1.0), Engine(library, "b", 1.0, "interrupt"))


@pytest.mark.parametrize(
    ("refuses", "words"), [("always", "does not run engine b: TensorRT's"), ("context", "prepare an engine")]
)
def test_an_engine_that_does_not_run(library: Library, refuses: str, words: str) -> None:
    with pytest.raises(MachineError, match=words):
        timed(library, Engine(library, "a", 1.0), Engine(library, "b", 1.0, refuses))


def test_inputs_are_uploaded_once_in_the_engines_own_type(library: Library) -> None:
    engine = Engine(library, "a", 1.0)
    engine.inputs = {"x": ("FLOAT", 4), "ids": ("INT32", 4)}
    timed(library, engine, feeds={**FEEDS, "ids": np.array([[1, -2]], np.int64), "unused": np.zeros(3)})
    assert sorted(library.uploads.values()) == sorted([FEEDS["x"].tobytes(), struct.pack("<2i", 1, -2)])
    assert engine.contexts[0].shapes == {"x": (2, 3), "ids": (1, 2)}


def test_a_shape_that_does_not_follow(library: Library) -> None:
    engine = Engine(library, "a", 1.0)
    engine.outputs = {"t": (-1,)}
    with pytest.raises(InputError, match="the shapes of t do not follow"):
        timed(library, engine)


def test_room_for_the_outputs(library: Library) -> None:
    engine = Engine(library, "a", 1.0)
    engine.outputs = {"y": (2, 5), "found": (-1, 4), "none": (0, 4), "nibbles": (3,), "shape": (4,)}
    timed(library, engine)
    addresses = engine.contexts[0].addresses
    sizes = {name: library.sizes[addresses[name]] for name in engine.outputs}
    assert sizes == {"y": 40, "found": 4096, "none": 1, "nibbles": 2, "shape": 16}
    assert library.calls.count("cudaMallocHost") == 1


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({"x": np.zeros((9, 3), np.float32)}, r"'x' of shape \(9, 3\) is outside"),
        ({"z": np.zeros((2, 3), np.float32)}, "reads an input 'x'; there are z"),
    ],
)
def test_feeds_that_do_not_fit(library: Library, feeds: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        timed(library, Engine(library, "a", 1.0), feeds=feeds)


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Timings]:
    """Time two plans whose bytes are b"1" and what is given; a TensorRT that loads b"1" only."""
    library = Library()

    class Runtime:
        def __init__(self, log: Any) -> None:
            pass

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            return Engine(library, "engine", 2.0) if plan == b"1" else None

    def run(second: bytes) -> Timings:
        paths = {"good": tmp_path / "good.plan", "other": tmp_path / "other.plan"}
        paths["good"].write_bytes(b"1")
        paths["other"].write_bytes(second)
        return timing.time_plans(paths, FEEDS, 1, 3)

    monkeypatch.setattr(timing, "load", lambda name: SimpleNamespace(Runtime=Runtime, **vars(BINDING)))
    monkeypatch.setattr(timing, "open_log", lambda binding: LOG)
    monkeypatch.setattr(cudart, "load", lambda: Cudart(library))
    return run


def test_plans_are_loaded_and_timed(plans: Callable[..., Timings]) -> None:
    assert plans(b"1").milliseconds == {"good": (2.0,) * 3, "other": (2.0,) * 3}


def test_a_plan_that_does_not_load(plans: Callable[..., Timings]) -> None:
    with pytest.raises(MachineError, match=r"does not load other\.plan: TensorRT's reason"):
        plans(b"damaged")


def test_the_real_runtime_returns_its_errors_too() -> None:
    if gpu_name() is not None:
        pytest.skip("there is a GPU: a stream can be made")
    try:
        cuda = cudart.load()
    except MachineError as error:
        assert "pip install nvidia-cuda-runtime" in str(error)  # noqa: PT017
        pytest.skip("no libcudart")
    with (
        pytest.raises(MachineError, match=r"cudaStreamCreate answers with error \d+ \(.*driver.*\)"),
        cuda.stream(),
    ):
        pass


def test_no_runtime_at_all(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    from polygraphy.cuda import cuda as module

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(module, "G_CUDA", None)
    monkeypatch.setattr(module.util, "find_in_dirs", lambda pattern, folders: [])
    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(
        MachineError, match=r"no CUDA runtime \(libcudart.so: cannot open.*pip install nvidia"
    ):
        cudart.load()
    assert capfd.readouterr() == ("", "")

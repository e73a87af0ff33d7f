"""What timing takes of CUDA's runtime library, through ctypes: statuses are checked, resources freed.

Polygraphy finds and loads the library; events and graphs it does not have.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import byref, c_size_t, c_void_p
from typing import Any

from trtbuild.errors import MachineError, one_line

# cuda_runtime_api.h
HOST_TO_DEVICE = 1
OUT_OF_MEMORY = 2
CAPTURE_THREAD_LOCAL = 1  # other threads (the builder's, a logger's) may go on


class NotCaptured(Exception):  # noqa: N818  (an answer rather than an error)
    """What was enqueued cannot become a graph; says why. Nothing is left behind."""


class Cudart:
    """The functions of `handle` return their errors; the methods here raise them as MachineError.

    What a context manager here made it destroys in every case. The status of that is not looked at: after
    an error in a kernel every call fails, and the first one to fail has been raised.
    """

    def __init__(self, handle: Any) -> None:
        self._library = handle

    @contextmanager
    def stream(self) -> Iterator[c_void_p]:
        """A stream. At the end, also after an error, its work is awaited: what it used can be freed then."""
        with self._made("cudaStreamCreate", "cudaStreamDestroy") as stream:
            try:
                yield stream
            finally:
                self._library.cudaStreamSynchronize(stream)

    @contextmanager
    def event(self) -> Iterator[c_void_p]:
        with self._made("cudaEventCreate", "cudaEventDestroy") as event:
            yield event

    @contextmanager
    def memory(self, size: int) -> Iterator[c_void_p]:
        """`size` bytes on the GPU, and at least one: TensorRT takes no null address."""
        with self._made("cudaMalloc", "cudaFree", c_size_t(max(size, 1))) as memory:
            yield memory

    @contextmanager
    def host_memory(self, size: int) -> Iterator[c_void_p]:
        """`size` bytes that both host and GPU reach."""
        with self._made("cudaMallocHost", "cudaFreeHost", c_size_t(max(size, 1))) as memory:
            yield memory

    def upload(self, memory: c_void_p, source: bytes) -> None:
        self._call("cudaMemcpy", memory, source, c_size_t(len(source)), ctypes.c_int(HOST_TO_DEVICE))

    def synchronize(self, stream: c_void_p) -> None:
        self._call("cudaStreamSynchronize", stream)

    def record(self, event: c_void_p, stream: c_void_p) -> None:
        self._call("cudaEventRecord", event, stream)

    def milliseconds(self, start: c_void_p, end: c_void_p) -> float:
        """Between two events that have happened."""
        elapsed = ctypes.c_float()
        self._call("cudaEventElapsedTime", byref(elapsed), start, end)
        return elapsed.value

    @contextmanager
    def graph(self, stream: c_void_p, enqueue: Callable[[], None]) -> Iterator[c_void_p]:
        """What `enqueue` puts on the stream, as an executable graph. Raises NotCaptured, also where
        `enqueue` raises MachineError: an engine refuses so what cannot be captured."""
        executable = self._captured(stream, enqueue)
        try:
            yield executable
        finally:
            self._library.cudaStreamSynchronize(stream)  # it may be running
            self._library.cudaGraphExecDestroy(executable)

    def launch(self, graph: c_void_p, stream: c_void_p) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def _captured(self, stream: c_void_p, enqueue: Callable[[], None]) -> c_void_p:
        # cudaGraphInstantiate has other parameters in CUDA 11 than in CUDA 12; this one came with 11.4
        if not hasattr(self._library, "cudaGraphInstantiateWithFlags"):
            raise NotCaptured("the CUDA runtime is older than 11.4")
        graph, executable = c_void_p(), c_void_p()
        try:
            self._call("cudaStreamBeginCapture", stream, ctypes.c_int(CAPTURE_THREAD_LOCAL))
            try:
                enqueue()
            finally:
                ended = self._library.cudaStreamEndCapture(stream, byref(graph))
            self._check("cudaStreamEndCapture", ended)
            self._call("cudaGraphInstantiateWithFlags", byref(executable), graph, ctypes.c_ulonglong(0))
        except MachineError as error:
            raise NotCaptured(one_line(error)) from error
        finally:
            if graph:  # there is one also when it was the engine that failed
                self._library.cudaGraphDestroy(graph)
            self._library.cudaGetLastError()  # forget the error, or a later call reports it as its own
        return executable

    @contextmanager
    def _made(self, create: str, destroy: str, *arguments: Any) -> Iterator[c_void_p]:
        made = c_void_p()
        self._call(create, byref(made), *arguments)
        try:
            yield made
        finally:
            getattr(self._library, destroy)(made)

    def _call(self, function: str, *arguments: Any) -> None:
        self._check(function, getattr(self._library, function)(*arguments))

    def _check(self, function: str, status: int) -> None:
        if not status:
            return
        explain = self._library.cudaGetErrorString
        explain.restype = ctypes.c_char_p
        text = explain(ctypes.c_int(status)) or b"unknown error"
        hint = "; end other programs on the GPU, or give a smaller --batch" if status == OUT_OF_MEMORY else ""
        raise MachineError(f"{function} answers with error {status} ({text.decode(errors='replace')}){hint}")


def load() -> Cudart:
    """The CUDA runtime of this machine. Raises MachineError where there is none."""
    from polygraphy import cuda
    from polygraphy.logger import G_LOGGER

    try:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            return Cudart(cuda.wrapper().handle)
    except OSError as error:
        raise MachineError(
            f"no CUDA runtime ({one_line(error)}); pip install nvidia-cuda-runtime-cu12, or add the folder "
            "of libcudart.so to LD_LIBRARY_PATH"
        ) from error

"""A libcudart for tests without a GPU, which behaves as the real one does: it returns its errors and
hands out handles through pointers; nothing that work in flight uses may be freed, and no time between events
is known before the work is awaited."""

from __future__ import annotations

import ctypes
import itertools
import re
from typing import Any

OUT_OF_MEMORY, NOT_READY, ILLEGAL_ADDRESS, UNSUPPORTED, INVALIDATED = 2, 600, 700, 900, 901
FORBIDDEN_IN_CAPTURE = ("cudaMalloc", "cudaMemcpy", "cudaStreamSynchronize", "cudaFree")
DESTROYERS = {
    "cudaStreamDestroy": "stream",
    "cudaEventDestroy": "event",
    "cudaFree": "memory",
    "cudaFreeHost": "host memory",
    "cudaGraphDestroy": "graph",
    "cudaGraphExecDestroy": "executable",
}


class Library:
    """libcudart. `fails`: the number of the call that returns an error; with `sticky` all after it do too."""

    def __init__(self, fails: int | None = None, sticky: bool = False, status: int = OUT_OF_MEMORY) -> None:
        self.fails, self.sticky, self.status = fails, sticky, status
        self.calls: list[str] = []
        self.alive: dict[int, str] = {}
        self.uploads: dict[int, bytes] = {}
        self.sizes: dict[int, int] = {}
        self.graphs: dict[int, list[tuple[str, float]]] = {}
        self.capture: list[tuple[str, float]] | None = None
        self.invalid = False
        self.last_error = 0
        self.in_flight = False
        self.clock = 0.0
        self.ran: list[str] = []
        self.recorded: dict[int, float] = {}
        self.awaited: dict[int, float] = {}
        self.handles = itertools.count(0x1000)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)
        action = getattr(type(self), re.sub("[A-Z]", lambda word: f"_{word[0].lower()}", name[4:]), None)

        def function(*arguments: Any) -> Any:
            if name == "cudaGetErrorString":
                return b"the reason"
            self.calls.append(name)
            number = len(self.calls) - 1
            broken = self.fails is not None and (
                number == self.fails or (self.sticky and number > self.fails)
            )
            if name == "cudaStreamSynchronize" and self.capture is None:
                self.in_flight = False
            if name in DESTROYERS:
                self._destroy(name, arguments[0])
            if broken and name in ("cudaStreamEndCapture",):
                self.capture = None
            if broken:
                self.last_error = self.status
                return self.status
            if self.capture is not None and name in FORBIDDEN_IN_CAPTURE:
                self.invalid, self.last_error = True, UNSUPPORTED
                return UNSUPPORTED
            return (action(self, *arguments) if action else 0) or 0

        return function

    def _destroy(self, name: str, handle: ctypes.c_void_p) -> None:
        """Memory and graphs that work in flight uses must not go."""
        kind = self.alive.pop(handle.value or 0)
        assert kind == DESTROYERS[name]
        assert not self.in_flight or kind not in ("memory", "host memory", "executable"), f"{kind} in use"

    def _make(self, kind: str, pointer: Any) -> int:
        handle = next(self.handles)
        pointer._obj.value = handle
        self.alive[handle] = kind
        return handle

    def _stream_create(self, pointer: Any) -> None:
        self._make("stream", pointer)

    def _event_create(self, pointer: Any) -> None:
        self._make("event", pointer)

    def _malloc(self, pointer: Any, size: ctypes.c_size_t) -> None:
        assert size.value > 0
        self.sizes[self._make("memory", pointer)] = size.value

    def _malloc_host(self, pointer: Any, size: ctypes.c_size_t) -> None:
        self.sizes[self._make("host memory", pointer)] = size.value

    def _memcpy(self, to: ctypes.c_void_p, source: bytes, size: ctypes.c_size_t, kind: Any) -> None:
        assert (kind.value, len(source)) == (1, size.value)
        assert size.value <= self.sizes[to.value or 0]
        self.uploads[to.value or 0] = source

    def _stream_synchronize(self, stream: ctypes.c_void_p) -> None:
        assert self.alive[stream.value or 0] == "stream"
        self.awaited = dict(self.recorded)

    def _event_record(self, event: ctypes.c_void_p, stream: ctypes.c_void_p) -> None:
        self.recorded[event.value or 0] = self.clock
        self.awaited.pop(event.value or 0, None)

    def _event_elapsed_time(self, pointer: Any, start: ctypes.c_void_p, end: ctypes.c_void_p) -> int:
        if not {start.value, end.value} <= self.awaited.keys():
            return NOT_READY
        pointer._obj.value = self.awaited[end.value or 0] - self.awaited[start.value or 0]
        return 0

    def _stream_begin_capture(self, stream: ctypes.c_void_p, mode: ctypes.c_int) -> None:
        assert mode.value == 1
        self.capture, self.invalid = [], False

    def _stream_end_capture(self, stream: ctypes.c_void_p, pointer: Any) -> int:
        captured, self.capture = self.capture, None
        assert captured is not None
        if self.invalid:
            self.last_error = INVALIDATED
            return INVALIDATED
        self.graphs[self._make("graph", pointer)] = captured
        return 0

    def _graph_instantiate_with_flags(self, pointer: Any, graph: ctypes.c_void_p, flags: Any) -> None:
        assert (type(flags), flags.value) == (ctypes.c_ulonglong, 0)
        self.graphs[self._make("executable", pointer)] = self.graphs[graph.value or 0]

    def _graph_launch(self, executable: ctypes.c_void_p, stream: ctypes.c_void_p) -> None:
        for work in self.graphs[executable.value or 0]:
            self.run(work)

    def _get_last_error(self) -> int:
        error, self.last_error = self.last_error, 0
        return error

    def run(self, work: tuple[str, float]) -> None:
        if self.capture is not None:
            self.capture.append(work)
        else:
            self.in_flight = True
            self.ran.append(work[0])
            self.clock += work[1]

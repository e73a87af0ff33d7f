"""IProfiler, which users derive from."""

from __future__ import annotations

import sys
from typing import Any

from .native import Native, Overridable


class Profiler(Native, metaclass=Overridable):
    __slots__ = ("_initialised",)

    def __init__(self) -> None:
        self._initialised = True

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise RuntimeError('Tried to call pure virtual function "IProfiler::report_layer_time"')


def report(profiler: Any, layer_name: str, ms: float) -> None:
    """Call it as C++ does: what it raises, Ctrl-C too, is printed and forgotten."""
    try:
        profiler.report_layer_time(layer_name, ms)
    except BaseException as error:
        name = "" if type(error) is RuntimeError else f"{type(error).__name__}: "
        said = f"{name}{str(error) or '<EMPTY MESSAGE>'}"
        print(f"[ERROR] Exception caught in report_layer_time(): {said}", file=sys.stderr)

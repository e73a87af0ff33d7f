"""ILogger, which users derive from, and Logger, which prints."""

from __future__ import annotations

import sys
from typing import Any

from .native import Crash, Native, Overridable


class ILogger(Native, metaclass=Overridable):
    __slots__ = ("_initialised", "_min_severity")
    Severity: Any

    def __init__(self) -> None:
        self._initialised = True

    def log(self, severity: Any, msg: str) -> None:
        raise Crash("log is not overridden")


class Logger:
    """Mixed into ILogger: prints what is as severe as `min_severity` or worse."""

    __slots__ = ()

    def __init__(self: Any, min_severity: Any = None) -> None:
        self._initialised = True
        self.min_severity = self.Severity.WARNING if min_severity is None else min_severity

    @property
    def min_severity(self: Any) -> Any:
        return self._min_severity

    @min_severity.setter
    def min_severity(self: Any, severity: Any) -> None:
        self._min_severity = severity

    def log(self: Any, severity: Any, msg: str) -> None:
        if int(severity) <= int(self.min_severity):
            print(f"[TRT] [{severity.name[0]}] {msg}", file=sys.stderr)

"""What TensorRT says, kept, so that an error can tell the reason."""

from __future__ import annotations

import functools
import re
from collections.abc import Hashable
from typing import Any, Protocol, cast

from trtbuild.targets.trt.binding import Binding

OUT_OF_MEMORY = re.compile(
    r"out ?of ?memory|insuff?icient memory|could not be allocated|cudaMalloc", re.IGNORECASE
)


class Log(Protocol):
    """Warnings, each once, and errors, in the order in which they came."""

    errors: list[str]
    warnings: list[str]

    def reason(self, since: int = 0) -> str:
        """What TensorRT gave as the reason of a failure, of its errors but the first `since`.

        TensorRT also logs as errors what it gets over (a tactic that cannot be tried, a timing cache that it
        does not take), so of many the first is told, and the last two, which say what it was that failed.
        """


def open_log(binding: Binding) -> Log:
    """The logger to pass to TensorRT, emptied.

    It is one and the same for the whole process: TensorRT keeps to the first logger that it was given, for
    as long as any builder, runtime or plugin lives.
    """
    log = _logger(cast(Hashable, binding))
    log.errors, log.warnings = [], []
    return log


@functools.cache
def _logger(binding: Any) -> Log:
    base: Any = binding.ILogger

    class Keeper(base):  # type: ignore[misc]  # a base class known at run time only
        """TensorRT calls it from several threads; appending to a list is safe."""

        def __init__(self) -> None:
            base.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: object, message: str) -> None:
            text = " ".join(message.split())
            if severity in (base.Severity.INTERNAL_ERROR, base.Severity.ERROR):
                self.errors.append(text)
            elif severity == base.Severity.WARNING and text not in self.warnings:
                self.warnings.append(text)

        def reason(self, since: int = 0) -> str:
            told = list(dict.fromkeys(self.errors[since:]))
            return "; ".join(told if len(told) <= 3 else (told[0], *told[-2:])) or "it gave no reason"

    keeper: Log = Keeper()
    return keeper

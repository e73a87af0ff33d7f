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
    """Warnings and errors in the order in which they came, each once."""

    errors: list[str]
    warnings: list[str]

    def reason(self) -> str:
        """What TensorRT gave as the reason of a failure."""


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
            if severity in (base.Severity.INTERNAL_ERROR, base.Severity.ERROR):
                _append(self.errors, message)
            elif severity == base.Severity.WARNING:
                _append(self.warnings, message)

        def reason(self) -> str:
            return "; ".join(self.errors[:3]) or "it gave no reason"

    keeper: Log = Keeper()
    return keeper


def _append(messages: list[str], message: str) -> None:
    text = " ".join(message.split())
    if text not in messages:
        messages.append(text)

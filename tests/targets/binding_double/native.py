"""What the binding's classes share: they belong to a module of one version, and pybind11's manners."""

from __future__ import annotations

import sys
import threading
from typing import Any


class Crash(BaseException):
    """Where the real binding would take the whole process down."""


class Native:
    """A class of the binding: it has no attributes beside its own, and (most of them) no constructor."""

    __slots__ = ()
    _trt: Any  # the module of the double that the class belongs to

    def __new__(cls, *_args: Any, **_options: Any) -> Any:
        if not hasattr(cls, "__init__") or cls.__init__ is object.__init__:
            raise TypeError(f"tensorrt.tensorrt.{cls.__name__}: No constructor defined!")
        return super().__new__(cls)

    @classmethod
    def _make(cls, **fields: Any) -> Any:
        made = object.__new__(cls)
        for name, value in fields.items():
            setattr(made, name, value)
        return made


class Overridable(type):
    """The metaclass of classes that a user derives from: pybind11 wants their `__init__` called."""

    def __call__(cls, *args: Any, **options: Any) -> Any:
        made = super().__call__(*args, **options)
        if not getattr(made, "_initialised", False):
            base = next(base for base in cls.__mro__ if base.__module__ == "tensorrt.tensorrt")
            raise TypeError(
                f"tensorrt.tensorrt.{base.__name__}.__init__() must be called when overriding __init__"
            )
        return made


def expect(value: Any, kind: Any, function: str) -> Any:
    """The value, if it is of the kind that a bound function takes; pybind11 converts nothing else."""
    if not isinstance(value, kind):
        raise TypeError(
            f"{function}(): incompatible function arguments; got {type(value).__name__}: {value!r}"
        )
    return value


def tell(logger: Any, severity: str, message: str) -> None:
    """Log from another thread, as TensorRT may. An exception of `log` is printed and forgotten."""

    def call() -> None:
        try:
            logger.log(getattr(logger.Severity, severity), message)
        except BaseException as error:
            print(f"[ERROR] Exception caught in log(): {type(error).__name__}: {error}", file=sys.stderr)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def require_gpu(made: Any) -> None:
    """What a Builder or a Runtime does where CUDA does not start; TensorRT 8 calls the reason a warning."""
    if made._trt._behaviour.no_gpu:
        severity = "WARNING" if made._trt._version < (10,) else "ERROR"
        tell(made.logger, severity, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

"""The manners of the ONNX libraries: they warn on the terminal, and raise whatever they like."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from trtbuild.errors import InputError, one_line

LOGGERS = ("onnxscript", "onnx_ir")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep their warnings off the terminal; what they could not do is checked by result."""
    previous = [(logger := logging.getLogger(name), logger.level) for name in LOGGERS]
    for logger, _ in previous:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in previous:
            logger.setLevel(level)


@contextlib.contextmanager
def checked() -> Iterator[None]:
    """Quiet, and any error of theirs is an InputError: what they choke on is an invalid model."""
    try:
        with quiet():
            yield
    except InputError:
        raise
    except Exception as error:
        reason = one_line(bottom(error))
        raise InputError(f"the model is invalid ({reason}); check it with onnx.checker") from error


def bottom(error: BaseException) -> BaseException:
    """The error at the bottom of a chain: onnx-ir wraps what it finds in the names of its own functions."""
    return bottom(error.__cause__) if error.__cause__ else error

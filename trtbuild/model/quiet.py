"""Keep the ONNX libraries' warnings off the terminal; what they could not do is checked by result."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

LOGGERS = ("onnxscript", "onnx_ir")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    previous = [(logger := logging.getLogger(name), logger.level) for name in LOGGERS]
    for logger, _ in previous:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in previous:
            logger.setLevel(level)

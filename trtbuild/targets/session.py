"""The one ONNX Runtime session factory: for calibration, golden, and simulation.

Graph optimisations are off and Q/DQ stay as written: with them on, the same Q/DQ file gives other
numbers, and fused nodes lose the tensors that the golden diff compares.
"""

from __future__ import annotations

import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtbuild.errors import BuildError, InputError, TrtbuildError, one_line
from trtbuild.model import files
from trtbuild.targets.base import Runner

Tensors = dict[str, NDArray[Any]]


Loadable = ir.Model | bytes | str
"""A model in memory, one that was serialized, or the path of a file."""


def open_session(model: Loadable, threads: int | None = None, optimised: bool = False) -> Any:
    """An `onnxruntime.InferenceSession` over `model`, on `threads` cores of the CPU, or on all of them.

    `optimised`: with all graph optimisations, but Q/DQ still as written: the same model, rounded otherwise.
    Raises BuildError when ONNX Runtime refuses the model.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    options.log_severity_level = 4  # its errors arrive as exceptions; the log would only repeat them
    try:
        with loadable(model) as source:
            return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base below Exception
        raise BuildError(f"ONNX Runtime refuses the model: {one_line(error)}") from error


@contextmanager
def loadable(model: Loadable) -> Iterator[bytes | str]:
    """The model as bytes, or above protobuf's limit as a temporary file with external data."""
    if isinstance(model, bytes | str):
        yield model
        return
    if files.weight_bytes(model) <= files.PROTOBUF_LIMIT:
        yield files.serialize(model)
        return
    with tempfile.TemporaryDirectory(prefix="trtbuild-") as folder:
        path = Path(folder) / "model.onnx"
        files.save(model, path)
        yield str(path)


@contextmanager
def runner(
    model: Loadable, name: str, threads: int | None = None, optimised: bool = False
) -> Iterator[Runner]:
    """An active Polygraphy runner over `open_session`; `infer(feeds)` returns its outputs by name."""
    from polygraphy.backend.onnxrt import OnnxrtRunner
    from polygraphy.logger import G_LOGGER

    with (
        G_LOGGER.verbosity(G_LOGGER.CRITICAL),
        OnnxrtRunner(open_session(model, threads, optimised), name=name) as active,
    ):
        yield active


def infer(active: Runner, feeds: Tensors, samples: str) -> Tensors:
    """One batch through an active runner. Raises InputError, naming the samples, when the model fails; an
    error of trtbuild keeps its class."""
    try:
        outputs = active.infer(feeds, check_inputs=False)
    except TrtbuildError as error:
        raise type(error)(f"{active.name}: running {samples} failed: {error}") from error
    except Exception as error:  # as above
        raise InputError(f"{active.name}: running {samples} failed: {one_line(error)}") from error
    return {name: np.asarray(array) for name, array in outputs.items()}


def per_sample(active: Runner, feeds: Tensors, outputs: Tensors, samples: str) -> set[str]:
    """The names of those outputs whose axis 0 is the batch axis of `feeds`.

    Proven by a second run with the samples moved on by one: a length alone can be a coincidence
    (time steps, heads). Raises InputError as `infer` does.
    """
    moved = infer(active, moved_on(feeds), samples)
    length = len(next(iter(feeds.values())))
    return {
        name
        for name, array in outputs.items()
        if array.ndim and len(array) == length and np.allclose(np.roll(array, 1, axis=0), moved[name])
    }


def moved_on(feeds: Tensors) -> Tensors:
    """The batch with its samples moved on by one."""
    return {name: np.roll(array, 1, axis=0) for name, array in feeds.items()}


def real_rows(tensors: Tensors, rows_of: Container[str], count: int) -> Tensors:
    """The tensors with the first `count` rows of those in `rows_of`; the others whole."""
    return {name: array[:count] if name in rows_of else array for name, array in tensors.items()}

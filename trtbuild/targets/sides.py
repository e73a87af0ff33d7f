"""The sides of a golden diff: models in ONNX Runtime, and TensorRT engines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtbuild.model import files
from trtbuild.model.graph import activations
from trtbuild.model.model import Model
from trtbuild.recipe import InputSection
from trtbuild.rewrite.apart import FED, apart
from trtbuild.rewrite.cut import with_outputs
from trtbuild.rewrite.half import RAW
from trtbuild.targets.base import LayerRunner, Runner, Shows
from trtbuild.targets.session import runner
from trtbuild.targets.trt.ports import (
    EngineRunner,
    OpenEngine,
    activation_to_model,
    output_to_model,
    to_engine,
)


@dataclass(frozen=True)
class OnnxRuntimeSide:
    """A model in ONNX Runtime on CPU, optimisations off. `cut`: what the tensors asked for do not need is
    not run, because ONNX Runtime cannot run all of it."""

    name: str
    model: ir.Model
    caveat: str | None = None
    cut: bool = False
    whole: bool = field(default=False, init=False)
    shows: Shows = field(default="layers", init=False)
    layer_bytes: int | None = field(default=None, init=False)
    profiles: Mapping[str, InputSection] = field(default_factory=dict, init=False)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(str(value.name) for value in self.model.graph.outputs)

    def shipped(self, tensors: Sequence[str]) -> AbstractContextManager[Runner]:
        return runner(with_outputs(self.model, tensors, self.cut), self.name)

    def showing(self, tensors: Sequence[str]) -> AbstractContextManager[Runner]:
        return self.shipped(tensors)

    @property
    def dissection(self) -> OnnxRuntimeSide:
        return self

    @contextmanager
    def layerwise(self, tensors: Sequence[str], fed: Mapping[str, np.dtype[Any]]) -> Iterator[LayerRunner]:
        model = apart(self.model, tensors, fed)
        with runner(model, self.name) as active:
            inputs = {str(value.name) for value in self.model.graph.inputs}
            reads = [str(value.name) for value in model.graph.inputs if value.name not in inputs]
            yield _Layerwise(active, inputs, [name.removesuffix(FED) for name in reads])

    def otherwise(self, tensors: Sequence[str]) -> AbstractContextManager[Runner]:
        return runner(with_outputs(self.model, tensors, self.cut), self.name, optimised=True)


class _Layerwise:
    """A running model of `apart`; what is fed comes under the activation's own name."""

    def __init__(self, active: Runner, inputs: Collection[str], reads: Sequence[str]) -> None:
        self.name, self._active = active.name, active
        self._inputs, self.reads = inputs, tuple(reads)

    def infer(self, feed_dict: dict[str, Any], check_inputs: bool = False) -> Mapping[str, Any]:
        feeds = {name: array for name, array in feed_dict.items() if name in self._inputs}
        feeds |= {name + FED: feed_dict[name] for name in self.reads}
        return self._active.infer(feeds, check_inputs=check_inputs)


def as_given(model: Model) -> OnnxRuntimeSide:
    """The golden: the model file as it was given, never the normalised one. A bug of the normaliser must
    show as a difference, not stand on both sides.

    Nodes are unnamed: ONNX Runtime refuses repeated names, which mean nothing to it.
    """
    given = files.read(model.path)
    for node in given.graph:
        node.name = None
    return OnnxRuntimeSide("golden", given, cut=bool(model.unrunnable))


class EngineSide:
    """A TensorRT engine, and what else is built to look inside.

    plan: the engine that ships. marked: builds one in which these tensors are outputs too, as far as its
    network has them; that changes what the builder fuses, so it is for diagnosis only. debug: builds one
    whose unfused tensors can be watched (TensorRT 10.12 and later); where it is given, `marked` is not used.
    Each may be called several times. profiles: the shapes that the engines take. layer_bytes: what marked
    tensors may take on the GPU.
    """

    whole = True
    dissection = None

    def __init__(
        self,
        name: str,
        model: Model,
        plan: Callable[[], bytes],
        marked: Callable[[Sequence[str]], bytes],
        open_engine: OpenEngine,
        debug: Callable[[], bytes] | None = None,
        profiles: Mapping[str, InputSection] | None = None,
        layer_bytes: int | None = None,
        caveat: str | None = None,
    ) -> None:
        self.name, self.caveat, self.profiles = name, caveat, profiles or {}
        self.shows: Shows = "layers" if debug is None else "unfused layers"
        self.layer_bytes = layer_bytes if debug is None else None
        self._model, self._plan, self._marked, self._debug = model, plan, marked, debug
        self._open_engine = open_engine
        self._outputs: tuple[str, ...] | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Those that the engine really has, in the model's order: TensorRT promises no order, callers go by
        the names."""
        if self._outputs is None:
            with self.shipped(()):
                pass
        order = {str(value.name): index for index, value in enumerate(self._model.graph.outputs)}
        return tuple(sorted(self._outputs or (), key=lambda name: order.get(name, len(order))))

    @contextmanager
    def shipped(self, tensors: Sequence[str]) -> Iterator[Runner]:
        with self._open_engine(self._plan(), self.name) as active:
            self._outputs = active.outputs
            yield _AsModel(self.name, active, self._model, tensors)

    @contextmanager
    def showing(self, tensors: Sequence[str]) -> Iterator[Runner]:
        wanted = [*tensors, *(f"{tensor}{RAW}" for tensor in tensors)]
        plan = self._marked(wanted) if self._debug is None else self._debug()
        debug = () if self._debug is None else wanted
        with self._open_engine(plan, self.name, debug) as active:
            yield _AsModel(self.name, active, self._model, tensors)


class _AsModel:
    """A running engine with the model's dtypes, and copies of what it returns."""

    def __init__(self, name: str, engine: EngineRunner, model: Model, tensors: Sequence[str]) -> None:
        self.name, self._engine, self._tensors = name, engine, tensors
        self._outputs = {str(value.name) for value in model.graph.outputs}
        values = {str(value.name): value for value in [*activations(model.graph), *model.graph.outputs]}
        self._dtypes = {tensor: _numpy(values.get(tensor)) for tensor in tensors}

    def infer(self, feed_dict: dict[str, Any], check_inputs: bool = False) -> dict[str, NDArray[Any]]:
        shown = self._engine.infer(to_engine(feed_dict, self._engine.inputs))
        names = {tensor: self._shown_as(tensor, shown) for tensor in self._tensors}
        return {
            tensor: self._to_model(tensor, shown[name]) for tensor, name in names.items() if name in shown
        }

    def _shown_as(self, tensor: str, shown: Collection[str]) -> str:
        """Where only halves read what a lowered node writes, the explicit model has no float32 copy of it."""
        return tensor if tensor in shown or tensor in self._outputs else f"{tensor}{RAW}"

    def _to_model(self, tensor: str, array: NDArray[Any]) -> NDArray[Any]:
        convert = output_to_model if tensor in self._outputs else activation_to_model
        return convert(array, self._dtypes[tensor])


def _numpy(value: ir.Value | None) -> np.dtype[Any] | None:
    """The dtype that golden and candidate are compared in; None where the model does not tell."""
    if value is None or value.dtype is None:
        return None
    if value.dtype == ir.DataType.BFLOAT16:  # NumPy has none, float32 holds it
        return np.dtype(np.float32)
    dtype: np.dtype[Any] = value.dtype.numpy()
    return dtype

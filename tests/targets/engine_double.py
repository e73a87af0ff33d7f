"""Engines without a GPU: the bytes of an ONNX model, run by ONNX Runtime behind TensorRT's manners."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from trtbuild.model import files
from trtbuild.model.model import Model
from trtbuild.recipe import InputSection
from trtbuild.rewrite.cut import with_outputs
from trtbuild.targets.sides import EngineSide
from trtbuild.targets.trt.ports import NARROWED, EngineRunner, Port

INTERNAL = "(Unnamed Layer* 7) [Shuffle]_output"
ANY = 1 << 20


@dataclass
class Engines:
    """Opens plans, as `running.open_engine` does, and minds them as Polygraphy's TrtRunner does.

    Output arrays are reused by the next run; int64 and float64 become int32 and float32; outputs come in an
    order of their own. With `debug` a plan shows the `unfused` ones of the tensors in it, and others under
    internal names. A tensor that is `lost` nobody gets to see. `opened`: the outputs of each plan.
    """

    profiles: Mapping[str, InputSection] = field(default_factory=dict)
    unfused: Collection[str] = ()
    lost: Collection[str] = ()
    opened: list[tuple[str, ...]] = field(default_factory=list)
    active: int = 0

    @contextmanager
    def open(self, plan: bytes, name: str, debug: Collection[str] = ()) -> Iterator[EngineRunner]:
        engine = _Engine(plan, self, debug)
        self.opened.append(engine.outputs)
        self.active += 1
        try:
            yield engine
        finally:
            self.active -= 1
            engine.spoil()

    def side(self, name: str, model: Model, built: ir.Model, **options: Any) -> EngineSide:
        """A side whose engines are builds of `built`."""
        outputs = [str(value.name) for value in built.graph.outputs]

        def marked(tensors: Sequence[str]) -> bytes:
            return files.serialize(with_outputs(built, list(dict.fromkeys([*outputs, *tensors]))))

        return EngineSide(name, model, lambda: marked(()), marked, self.open, **options)


class _Engine:
    def __init__(self, plan: bytes, manners: Engines, debug: Collection[str]) -> None:
        self._manners, self._buffers = manners, dict[str, NDArray[Any]]()
        model = ir.serde.deserialize_model(ir.serde.onnx.ModelProto.FromString(plan))
        self._watched = [name for name in manners.unfused if name in debug]
        outputs = [str(value.name) for value in model.graph.outputs]
        shown = with_outputs(model, list(dict.fromkeys([*outputs, *self._watched])))
        self._session = ort.InferenceSession(files.serialize(shown), providers=["CPUExecutionProvider"])
        self.outputs = tuple(sorted((name for name in outputs if name not in manners.lost), reverse=True))
        self._dtypes = {str(v.name): v.dtype.numpy() for v in model.graph.inputs if v.dtype is not None}
        self.inputs = {
            value.name: self._port(value.name, value.shape) for value in self._session.get_inputs()
        }

    def _port(self, name: str, shape: Sequence[Any]) -> Port:
        profile = self._manners.profiles.get(name)
        low = profile.min if profile else tuple(1 if isinstance(n, str) else n for n in shape)
        high = profile.max if profile else tuple(ANY if isinstance(n, str) else n for n in shape)
        return Port(NARROWED.get(self._dtypes[name], self._dtypes[name]), low, high)

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        assert feeds.keys() == self.inputs.keys()
        for name, array in feeds.items():
            assert array.dtype == self.inputs[name].dtype, "TensorRT would read the bytes as something else"
        names = [value.name for value in self._session.get_outputs()]
        wide = {name: array.astype(self._dtypes[name]) for name, array in feeds.items()}
        found = dict(zip(names, self._session.run(names, wide), strict=True))
        shown = [*sorted([*self._watched], reverse=True), *self.outputs]
        result = {name: self._in_buffer(name, found[name]) for name in shown if name in found}
        if self._watched:
            result[INTERNAL] = self._in_buffer(INTERNAL, np.zeros(3, np.float32))
        return {name: array for name, array in result.items() if name not in self._manners.lost}

    def _in_buffer(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            narrow = array.astype(NARROWED.get(array.dtype, array.dtype))
        if name not in self._buffers or self._buffers[name].shape != narrow.shape:
            self._buffers[name] = np.empty_like(narrow)
        self._buffers[name][...] = narrow
        return self._buffers[name]

    def spoil(self) -> None:
        """The memory goes back; whoever kept an array reads rubbish."""
        for buffer in self._buffers.values():
            buffer.view(np.uint8 if buffer.ndim else buffer.dtype)[...] = 255

"""A double with a model parsed: what the tests of the double do with it."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .module import make

VERSIONS = ["8.5.1.7", "8.6.1", "10.3.0", "10.13.0"]
DYNAMIC = ((1, 3, 4, 8), (2, 3, 8, 8), (4, 3, 16, 8))  # min, opt and max of the dynamic toy's x


def open_double(path: Path, version: str = "8.5.1.7", flags: str = "", **behaviour: Any) -> Any:
    """The model of `path` in a network of the named `flags`, and a configuration with DETAILED verbosity and,
    where axes are dynamic, a profile."""
    trt: Any = make(version, **behaviour)
    log = log_of(trt)
    builder = trt.Builder(log)
    kinds = trt.NetworkDefinitionCreationFlag
    names = [name for name in ("EXPLICIT_BATCH", *flags.split()) if hasattr(kinds, name)]
    network = builder.create_network(sum(1 << int(getattr(kinds, name)) for name in names))
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse_from_file(str(path))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if parsed and -1 in tuple(network.get_input(0).shape):
        profile = builder.create_optimization_profile()
        profile.set_shape("x", *DYNAMIC)
        config.add_optimization_profile(profile)
    return SimpleNamespace(
        trt=trt,
        log=log,
        builder=builder,
        network=network,
        parser=parser,
        parsed=parsed,
        config=config,
        path=path,
    )


def log_of(trt: Any) -> Any:
    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.threads: set[int] = set()
            self.said: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            self.threads.add(threading.get_ident())
            self.said.append((severity.name, message))

        def has(self, text: str, severity: str = "ERROR") -> bool:
            return any(text in message and kind == severity for kind, message in self.said)

    return Log()


def build(o: SimpleNamespace, *flags: str) -> Any:
    for flag in flags:
        o.config.set_flag(getattr(o.trt.BuilderFlag, flag))
    return o.builder.build_serialized_network(o.network, o.config)


def inspected(o: SimpleNamespace, plan: Any, context: bool = False) -> Any:
    engine = o.trt.Runtime(o.log).deserialize_cuda_engine(plan)
    inspector = engine.create_engine_inspector()
    if context:
        made = engine.create_execution_context()
        made.set_input_shape("x", engine.get_tensor_profile_shape("x", 0)[1])
        inspector.execution_context = made
    text = inspector.get_engine_information(o.trt.LayerInformationFormat.JSON)
    del inspector  # before its engine
    return json.loads(text)


def types_of(o: SimpleNamespace, plan: Any) -> dict[str, tuple[str, str]]:
    """Layer -> the types of its first input and output; without reformats and constants."""
    found = {}
    for layer in inspected(o, plan)["Layers"]:
        if layer["LayerType"] not in ("Reformat", "Constant"):
            sides = (layer["Inputs"][0], layer["Outputs"][0])
            texts = [side["Format/Datatype"] for side in sides]
            found[layer["Name"]] = tuple(
                next(kind for kind in ("Int8", "FP16", "FP32", "Half", "Float") if kind in text)
                for text in texts
            )
    return found


def layer_named(o: SimpleNamespace, name: str) -> Any:
    return next(layer for layer in all_layers(o.network) if layer.name == name)


def all_layers(network: Any) -> list[Any]:
    return [network.get_layer(index) for index in range(network.num_layers)]


def give_ranges(network: Any, *without: str) -> None:
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [
        layer.get_output(index) for layer in all_layers(network) for index in range(layer.num_outputs)
    ]
    for tensor in tensors:
        if tensor.name not in without:
            tensor.dynamic_range = (-2.0, 2.0)


def calibrator_of(
    trt: Any, answers: Sequence[Any], cache: bytes | None = None, base: str = "EntropyCalibrator2"
) -> Any:
    class Calibrator(getattr(trt, f"IInt8{base}")):  # type: ignore[misc]
        def __init__(self) -> None:
            getattr(trt, f"IInt8{base}").__init__(self)
            self.answers, self.written, self.asked = list(answers), b"", []

        def get_batch_size(self) -> int:
            return 2

        def get_batch(self, names: list[str]) -> Any:
            self.asked.append(names)
            answer = self.answers.pop(0) if self.answers else None
            if isinstance(answer, BaseException):
                raise answer
            return answer

        def read_calibration_cache(self) -> bytes | None:
            return cache

        def write_calibration_cache(self, text: Any) -> None:
            assert isinstance(text, memoryview)
            self.written = bytes(text)

    return Calibrator()


def calibrated(o: SimpleNamespace, *answers: Any, **options: Any) -> Any:
    o.calibrator = o.config.int8_calibrator = calibrator_of(o.trt, answers, **options)
    return build(o, "INT8")


def scales(cache: bytes) -> dict[str, float]:
    lines = cache.decode().splitlines()[1:]
    return {n: struct.unpack(">f", bytes.fromhex(h))[0] for n, h in (line.rsplit(": ", 1) for line in lines)}

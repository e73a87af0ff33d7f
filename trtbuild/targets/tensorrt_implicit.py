"""Target `tensorrt` in implicit mode: TensorRT 8.5 to 10 finds the ranges or is told them, lowers what it
likes, and holds the pins. The model file goes in as it was given; no Q/DQ is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from calibrators.cache import CacheAlgorithm, cache_header
from trtbuild.errors import InputError, MachineError
from trtbuild.model.graph import activations, fed_values, is_float_tensor
from trtbuild.model.model import Model
from trtbuild.recipe import Recipe
from trtbuild.rewrite.given import as_given
from trtbuild.targets.base import Algorithm, Built, Request, Side
from trtbuild.targets.trt import binding as trt_binding
from trtbuild.targets.trt import inspector, network
from trtbuild.targets.trt.compile import open_builder
from trtbuild.targets.trt.config import options
from trtbuild.targets.trt.gpu import require_gpu
from trtbuild.targets.trt.log import open_log
from trtbuild.targets.trt.making import check_opset, make
from trtbuild.targets.trt.parse import parse
from trtbuild.targets.trt.reference import golden_side
from trtbuild.targets.trt.watching import engine_side

_OWN: dict[str, Algorithm] = {"entropy": "entropy", "minmax": "minmax"}
"""A calibration method of the recipe -> TensorRT's own algorithm of that name."""
_HEADERS: dict[str, CacheAlgorithm] = {"entropy": "EntropyCalibration2", "minmax": "MinMaxCalibration"}


class TensorRTImplicit:
    """TensorRT with calibrators and layer precisions, on the GPU of this machine."""

    name = "tensorrt"
    artifact = "engine.plan"
    implicit = True

    def require(self) -> None:
        _binding()
        require_gpu()

    def identity(self, recipe: Recipe) -> dict[str, Any]:
        gpu = require_gpu()
        return {
            "target": self.name,
            "mode": "implicit",
            "tensorrt": _binding().__version__,
            "gpu": gpu.name,
            "compute_capability": ".".join(map(str, gpu.compute_capability)),
            "options": options(recipe.tensorrt),
        }

    def ranges(self, model: Model) -> tuple[str, ...]:
        """Every float32 tensor that a sample reaches, inputs included: a layer around a tensor without a
        range is not built in int8."""
        fed = fed_values(model.graph)
        reached: list[ir.Value] = [value for value in model.graph.inputs if value in fed]
        reached += [value for value in activations(model.graph) if value in fed and _runs(value, model)]
        return tuple(str(v.name) for v in reached if is_float_tensor(v) and v.dtype == ir.DataType.FLOAT)

    def algorithm(self, recipe: Recipe) -> Algorithm | None:
        chosen, section = recipe.tensorrt.calibrator, recipe.calibration
        if chosen == "auto":
            return None if section.tensors or section.types else _OWN.get(section.method)
        return _OWN.get(chosen)

    def check_cache(self, header: str, recipe: Recipe) -> None:
        """TensorRT itself ignores a cache of another version or algorithm, and calibrates anew."""
        chosen = recipe.tensorrt.calibrator
        names = [_HEADERS[chosen]] if chosen in _HEADERS else list(_HEADERS.values())
        expected = [cache_header(_binding().__version__, name) for name in names]
        if header not in expected:
            raise InputError(
                f"the calibration cache is of {header}, this machine wants {' or '.join(expected)}; "
                "calibrate here, or give the range table (JSON), which every version takes"
            )

    def layer_types(self, model: Model) -> Mapping[str, frozenset[str]]:
        binding = _binding()
        log = open_log(binding)
        given = as_given(model)
        check_opset(binding, given)
        parsed = parse(binding, open_builder(binding, log), given, log)
        return network.types_of(network.read(binding, parsed.network, given.graph))

    def build(self, request: Request, path: Path) -> Built:
        binding = _binding()
        made = make(binding, request)
        inspection = inspector.inspect(binding, made.plan, made.layers, made.flags.halves)
        path.write_bytes(made.plan)
        facts = {
            **self.identity(request.recipe),
            "inspected": "the engine",
            "layers_held": made.held,
            "without_range": list(made.without_range),
            "warnings": list(made.warnings),
        }
        return Built(inspection.layers, facts, made.table, inspection.reformats, inspection.executed)

    def golden(self, request: Request, folder: Path | None) -> Side:
        return golden_side(_binding(), request, self.identity(request.recipe), folder)

    def candidate(self, request: Request, path: Path) -> Side:
        binding = _binding()
        return engine_side(
            binding,
            request,
            "candidate",
            plan=path.read_bytes,
            made=lambda marked, unfused: make(binding, request, marked, unfused).plan,
        )


def _runs(value: ir.Value, model: Model) -> bool:
    """Whether ONNX Runtime can compute the tensor: only then it can be calibrated."""
    node = value.producer()
    return node is not None and node.name not in model.unrunnable


def _binding() -> trt_binding.Binding:
    binding = trt_binding.load(trt_binding.TENSORRT)
    if not trt_binding.has_calibrators(binding):
        raise MachineError(
            f"implicit mode needs TensorRT 8.5 to 10; this is {binding.__version__}, which has no "
            "calibrators and no layer precisions: use --mode explicit, or pip install 'tensorrt<11'"
        )
    return binding

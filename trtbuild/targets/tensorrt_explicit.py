"""Targets `tensorrt` in explicit mode and `tensorrt-rtx`: a strongly typed engine of the explicit model.

One implementation for TensorRT 10, TensorRT 11 and TensorRT-RTX, which differ in where they build: the
first two on the GPU of this machine, RTX without one. Types are fixed in the network, and the builder may not
change them: the layers are read from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtbuild.errors import InputError, MachineError
from trtbuild.model.model import Model
from trtbuild.progress import Phases
from trtbuild.recipe import Recipe, TensorRTSection
from trtbuild.rewrite.explicit import explicit, ranges_needed
from trtbuild.targets.base import Algorithm, Built, Layer, Request, Side
from trtbuild.targets.sides import OnnxRuntimeSide, as_given
from trtbuild.targets.simulation import simulated
from trtbuild.targets.trt import binding as trt_binding
from trtbuild.targets.trt import network as networks
from trtbuild.targets.trt import timing_cache
from trtbuild.targets.trt.binding import RTX, Binding
from trtbuild.targets.trt.compile import build_plan, open_builder
from trtbuild.targets.trt.config import configure, needs_native_norm, options
from trtbuild.targets.trt.gpu import require_gpu
from trtbuild.targets.trt.log import open_log
from trtbuild.targets.trt.monitor import watch
from trtbuild.targets.trt.parse import parse
from trtbuild.targets.trt.profile import add_profile, profile_of
from trtbuild.targets.trt.reference import golden_side
from trtbuild.targets.trt.typed import layers_of
from trtbuild.targets.trt.watching import engine_side

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass(frozen=True)
class _Made:
    """A plan (a serialized engine), the layers of the network, and what TensorRT warned of."""

    plan: bytes
    layers: tuple[Layer, ...]
    warnings: tuple[str, ...]


class TensorRTExplicit:
    """Strongly typed TensorRT: `tensorrt` for the GPU of this machine, `tensorrt_rtx` for the compute
    capabilities that the recipe names."""

    artifact = "engine.plan"
    implicit = False

    def __init__(self, module: str) -> None:
        """`module` is what Python imports: "tensorrt" or "tensorrt_rtx"."""
        self.name = module.replace("_", "-")
        self._module = module
        self._rtx = module == RTX

    def require(self) -> None:
        self._binding()
        if not self._rtx:
            require_gpu()

    def identity(self, recipe: Recipe) -> dict[str, Any]:
        facts = {"target": self.name, self._module: self._binding().__version__}
        if self._rtx:
            return {**facts, "compute_capabilities": list(recipe.tensorrt_rtx.compute_capabilities)}
        _check_explicit(recipe.tensorrt)
        gpu = require_gpu()
        return {
            **facts,
            "mode": "explicit",
            "gpu": gpu.name,
            "compute_capability": ".".join(map(str, gpu.compute_capability)),
            "options": options(recipe.tensorrt),
        }

    def ranges(self, model: Model) -> tuple[str, ...]:
        return ranges_needed(model)

    def algorithm(self, recipe: Recipe) -> Algorithm | None:
        """None: the ranges are those of our own table, written into the model as scales."""
        if not self._rtx:
            _check_explicit(recipe.tensorrt)
        return None

    def layer_types(self, model: Model) -> Mapping[str, frozenset[str]]:
        binding = self._binding()
        log = open_log(binding)
        parsed = parse(binding, open_builder(binding, log), model.normalised, log, typed=True)
        return networks.types_of(networks.read(binding, parsed.network, model.graph))

    def check_cache(self, header: str, recipe: Recipe) -> None:
        """A cache of any TensorRT is but ranges here: they are written into the model."""

    def build(self, request: Request, path: Path) -> Built:
        identity = self.identity(request.recipe)
        made = self._make(request)
        path.write_bytes(made.plan)
        why = "that needs a GPU" if self._rtx else "it can have no other types"
        inspected = f"the parsed, strongly typed network; the engine itself was not inspected ({why})"
        return Built(made.layers, {**identity, "inspected": inspected, "warnings": list(made.warnings)})

    def golden(self, request: Request, folder: Path | None) -> Side:
        if self._rtx:
            return as_given(request.model)
        return golden_side(self._binding(), request, self.identity(request.recipe), folder)

    def candidate(self, request: Request, path: Path) -> Side:
        if not self._rtx:
            return engine_side(
                self._binding(),
                request,
                "candidate",
                plan=path.read_bytes,
                made=lambda marked, unfused: self._make(request, marked, unfused).plan,
            )
        caveat = "the engine was not run: ONNX Runtime ran the same explicit model"
        return OnnxRuntimeSide("candidate", simulated(request), caveat, cut=bool(request.model.unrunnable))

    def _make(self, request: Request, marked: Sequence[str] = (), unfused: bool = False) -> _Made:
        """`marked` tensors become outputs too, `unfused` ones can be watched: for diagnosis."""
        binding, section = self._binding(), request.recipe.tensorrt
        model = explicit(request.model, request.precisions, request.table, "typed", request.biases)
        log = open_log(binding)
        builder = open_builder(binding, log)
        parsed = parse(binding, builder, model, log, typed=True, native_norm=needs_native_norm(section))
        layers = layers_of(binding, parsed.network, model.graph)
        networks.mark(parsed.network, marked, unfused)
        config = self._configure(binding, builder, request.recipe)
        add_profile(config, profile_of(builder, parsed.network, request.profiles))
        cache = None if self._rtx else timing_cache.cache_file(binding, section.timing_cache)
        timing_cache.use(config, cache)
        with Phases() as phases:
            watch(binding, config, phases)
            plan = build_plan(builder, parsed.network, config, log)
        timing_cache.keep(config, cache)
        return _Made(plan, tuple(layers), tuple(log.warnings))

    def _binding(self) -> Binding:
        binding = trt_binding.load(self._module)
        if not trt_binding.strongly_typed(binding):
            raise MachineError(
                "explicit mode needs TensorRT 10 or later, which takes its types from the network; this is "
                f"{binding.__version__}: use --mode implicit, or pip install 'tensorrt>=10'"
            )
        return binding

    def _configure(self, binding: Binding, builder: trt.Builder, recipe: Recipe) -> trt.IBuilderConfig:
        if not self._rtx:
            return configure(binding, builder, recipe.tensorrt)
        config = builder.create_builder_config()
        _set_capabilities(binding, config, recipe.tensorrt_rtx.compute_capabilities)
        return config


def _check_explicit(section: TensorRTSection) -> None:
    """Raise InputError for a key that asks for what a strongly typed network leaves nobody to decide."""
    wrong = {
        'mode = "implicit"': section.mode == "implicit",
        f'calibrator = "{section.calibrator}"': section.calibrator not in ("auto", "ranges"),
        'constraints = "prefer"': section.constraints == "prefer",
    }
    for key in (key for key, given in wrong.items() if given):
        raise InputError(
            f"[tensorrt] {key} belongs to implicit mode; in explicit mode ranges and precisions are written "
            "into the model: remove the key, or build with --mode implicit (TensorRT 8.5 to 10)"
        )


def _set_capabilities(binding: Any, config: Any, capabilities: tuple[str, ...]) -> None:
    """Only TensorRT-RTX has compute capabilities: `binding` and `config` are its own."""
    known = {
        f"{name[2:-1]}.{name[-1]}": member  # SM121 is 12.1
        for name, member in binding.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        if capability not in known:
            raise InputError(
                f"TensorRT-RTX knows no compute capability {capability!r}; it has {', '.join(known)}"
            )
        config.set_compute_capability(known[capability], index)

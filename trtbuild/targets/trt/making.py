"""From a model to an engine in implicit mode: network, pins, ranges or calibrator, configuration, plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx.defs
import onnx_ir as ir

from calibrators.table import RangeTable
from trtbuild.errors import InputError
from trtbuild.model import files
from trtbuild.model.naming import name_nodes
from trtbuild.progress import Phases, say
from trtbuild.recipe import TensorRTSection
from trtbuild.rewrite.given import as_given
from trtbuild.targets.base import Request
from trtbuild.targets.trt import network as networks
from trtbuild.targets.trt import timing_cache
from trtbuild.targets.trt.binding import Binding
from trtbuild.targets.trt.calibration import calibrate_and_build
from trtbuild.targets.trt.compile import build_plan, open_builder
from trtbuild.targets.trt.config import configure, needs_native_norm
from trtbuild.targets.trt.flags import Flags, flags_of, set_flags
from trtbuild.targets.trt.log import open_log
from trtbuild.targets.trt.monitor import watch
from trtbuild.targets.trt.network import NetworkLayer
from trtbuild.targets.trt.parse import parse
from trtbuild.targets.trt.pins import hold
from trtbuild.targets.trt.profile import add_profile, profile_of
from trtbuild.targets.trt.ranges import set_ranges

LAST_OPSET_OF_8 = 17
FEW = 5


@dataclass(frozen=True)
class Made:
    """A plan (a serialized engine), what it was made of, and what TensorRT said meanwhile.

    `held`: how many network layers are constrained. `without_range`: float tensors of an int8 network that
    have no range. `table`: the ranges that TensorRT found, where it was to find them.
    """

    plan: bytes
    layers: tuple[NetworkLayer, ...]
    flags: Flags
    held: int
    without_range: tuple[str, ...]
    table: RangeTable | None
    warnings: tuple[str, ...]


def make(binding: Binding, request: Request, marked: Sequence[str] = (), unfused: bool = False) -> Made:
    """Build what `request` asks for.

    For diagnosis: `marked` tensors become outputs too, which changes what TensorRT fuses; with `unfused`
    all tensors that are not fused away can be watched (TensorRT 10.12 and later).
    Raises BuildError, InputError and MachineError, each with TensorRT's reason.
    """
    return _make(binding, request, as_given(request.model), request.recipe.tensorrt, marked, unfused)


def make_golden(
    binding: Binding, request: Request, marked: Sequence[str] = (), unfused: bool = False
) -> bytes:
    """Build the float32 reference: the model file as it was given, TF32 off, nothing lowered."""
    exact = request.recipe.tensorrt.model_copy(update={"tf32": False, "dla_core": None})
    given = files.read(request.model.path)
    name_nodes(given.graph)  # a refusal can then say which node; nothing else is touched
    return _make(binding, request, given, exact, marked, unfused, golden=True).plan


def _make(
    binding: Binding,
    request: Request,
    model: ir.Model,
    section: TensorRTSection,
    marked: Sequence[str],
    unfused: bool,
    golden: bool = False,
) -> Made:
    check_opset(binding, model)
    log = open_log(binding)
    builder = open_builder(binding, log)
    parsed = parse(binding, builder, model, log, native_norm=needs_native_norm(section))
    network = parsed.network
    networks.tidy_names(network, model.graph)
    flags = _golden_flags(binding, request) if golden else flags_of(request.precisions)
    held = 0 if golden else hold(binding, network, model.graph, request.precisions, section.pin_inputs)
    networks.mark(network, marked, unfused)
    config = configure(binding, builder, section)
    set_flags(binding, config, flags, section, held > 0)
    profile = profile_of(builder, network, request.profiles)
    add_profile(config, profile)
    ranged = flags.int8 and not request.model.quantized
    without_range: tuple[str, ...] = ()
    if ranged and request.table is not None:
        without_range = set_ranges(binding, network, request.table)
    cache = timing_cache.cache_file(binding, section.timing_cache)
    timing_cache.use(config, cache)
    if without_range:
        few = ", ".join(without_range[:FEW]) + (", …" if len(without_range) > FEW else "")
        say(f"{len(without_range)} tensors have no range, so layers around them stay in float: {few}")
    with Phases() as phases:
        watch(binding, config, phases)
        if ranged and request.table is None and request.calibration is not None:
            plan, table = calibrate_and_build(
                binding, builder, network, config, profile, request.calibration, log, phases
            )
        else:
            plan, table = build_plan(builder, network, config, log), None
    timing_cache.keep(config, cache)
    layers = tuple(networks.read(binding, network, model.graph))
    return Made(plan, layers, flags, held, without_range, table, tuple(log.warnings))


def _golden_flags(binding: Binding, request: Request) -> Flags:
    """Nothing is lowered; but the Q/DQ that a file brings TensorRT 8 to 10 refuse without the flag INT8."""
    quantized = request.model.quantized and hasattr(binding.BuilderFlag, "INT8")
    return Flags(("INT8",) if quantized else ())


def check_opset(binding: Binding, model: ir.Model) -> None:
    """Raise InputError for operators that TensorRT 8 would misread: it takes those of later opsets for the
    ones that it knows (of a ReduceMean whose axes have become an input it reduces all axes)."""
    opset = model.opset_imports[""]
    if opset <= LAST_OPSET_OF_8 or hasattr(binding, "IProgressMonitor"):
        return
    changed = {node.op_type for node in model.graph if node.domain == "" and _changed(node.op_type, opset)}
    if changed:
        raise InputError(
            f"the model has ONNX opset {opset}, and TensorRT {binding.__version__} reads {LAST_OPSET_OF_8}; "
            f"since then {', '.join(sorted(changed))} changed: export the model with opset {LAST_OPSET_OF_8}"
        )


def _changed(operator: str, opset: int) -> bool:
    """Whether a standard operator is another in `opset` than in the last one that TensorRT 8 reads."""
    if not onnx.defs.has(operator, opset) or not onnx.defs.has(operator, LAST_OPSET_OF_8):
        return False  # unknown to ONNX or to that TensorRT: its parser will say so
    versions = (onnx.defs.get_schema(operator, of).since_version for of in (opset, LAST_OPSET_OF_8))
    return len(set(versions)) > 1

"""The builder's configuration, from the recipe's [tensorrt] section."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from trtbuild.errors import InputError, MachineError
from trtbuild.names import nearest
from trtbuild.recipe import TensorRTSection
from trtbuild.targets.trt.binding import Binding

if TYPE_CHECKING:
    import tensorrt as trt

TACTIC_SOURCES = "TRTBUILD_TACTIC_SOURCES"


def configure(binding: Binding, builder: trt.Builder, section: TensorRTSection) -> trt.IBuilderConfig:
    """A configuration with everything of `section` that does not concern precisions.

    Raises InputError for what this TensorRT does not have, MachineError for what this machine lacks.
    """
    config = builder.create_builder_config()
    config.profiling_verbosity = binding.ProfilingVerbosity.DETAILED  # else the audit cannot read the engine
    if section.workspace_gb is not None:
        config.set_memory_pool_limit(binding.MemoryPoolType.WORKSPACE, int(section.workspace_gb * (1 << 30)))
    if section.optimization_level is not None:
        _need(config, "builder_optimization_level", "optimization_level", binding)
        config.builder_optimization_level = section.optimization_level
    _set(config, binding.BuilderFlag.TF32, section.tf32)
    _set_tactic_sources(binding, config, tactic_sources(section))
    _set_compatibility(binding, config, section)
    if section.dla_core is not None:
        _set_dla(binding, builder, config, section.dla_core, section.gpu_fallback)
    return config


def needs_native_norm(section: TensorRTSection) -> bool:
    """Whether the engine must do without the plugin that the parser makes of InstanceNormalization."""
    return section.version_compatible or section.hardware_compatibility != "none"


def options(section: TensorRTSection) -> dict[str, Any]:
    """What of `section` shapes the engine: all but where the timing cache lies."""
    chosen = section.model_dump(mode="json", exclude={"timing_cache", "mode"})
    return {**chosen, "tactic_sources": tactic_sources(section)}


def tactic_sources(section: TensorRTSection) -> str | tuple[str, ...]:
    """What the environment says, else the recipe: "default", "none" or names."""
    said = os.environ.get(TACTIC_SOURCES)
    if not said:
        return section.tactic_sources
    return said if said in ("default", "none") else tuple(name.strip() for name in said.split(","))


def _set(config: trt.IBuilderConfig, flag: trt.BuilderFlag, on: bool) -> None:
    if on:
        config.set_flag(flag)
    else:
        config.clear_flag(flag)


def _set_tactic_sources(binding: Binding, config: trt.IBuilderConfig, wanted: str | tuple[str, ...]) -> None:
    """A bit per source; none of them leaves TensorRT its own kernels."""
    if wanted == "default":
        return
    known = {name.upper(): int(member) for name, member in binding.TacticSource.__members__.items()}
    bits = 0
    for name in () if wanted == "none" else wanted:
        if name.upper() not in known:
            raise InputError(
                f"tactic source {name!r} is not one of TensorRT {binding.__version__}"
                f"{nearest(name.upper(), known)}; it has {', '.join(known)}"
            )
        bits |= 1 << known[name.upper()]
    config.set_tactic_sources(bits)


def _set_compatibility(binding: Binding, config: trt.IBuilderConfig, section: TensorRTSection) -> None:
    if section.hardware_compatibility != "none":
        _need(config, "hardware_compatibility_level", "hardware_compatibility", binding)
        levels = type(config.hardware_compatibility_level)
        level = section.hardware_compatibility.upper()
        if level not in levels.__members__:
            raise _lacks(binding, f'hardware_compatibility = "{section.hardware_compatibility}"')
        config.hardware_compatibility_level = levels.__members__[level]
    if section.version_compatible:
        flags = binding.BuilderFlag
        if not hasattr(flags, "VERSION_COMPATIBLE"):
            raise _lacks(binding, "version_compatible")
        config.set_flag(flags.VERSION_COMPATIBLE)
        config.set_flag(flags.EXCLUDE_LEAN_RUNTIME)  # else the engine carries host code, which is never run


def _set_dla(
    binding: Binding, builder: trt.Builder, config: trt.IBuilderConfig, core: int, gpu_fallback: bool
) -> None:
    if core >= builder.num_DLA_cores:
        raise MachineError(
            f"[tensorrt] dla_core = {core}, but this machine has {builder.num_DLA_cores} DLA cores; "
            "remove the key, or build on a Jetson that has them"
        )
    config.default_device_type = binding.DeviceType.DLA
    config.DLA_core = core
    _set(config, binding.BuilderFlag.GPU_FALLBACK, gpu_fallback)


def _need(config: trt.IBuilderConfig, attribute: str, key: str, binding: Binding) -> None:
    if not hasattr(config, attribute):
        raise _lacks(binding, key)


def _lacks(binding: Binding, key: str) -> InputError:
    return InputError(f"[tensorrt] {key}: TensorRT {binding.__version__} does not have it; remove the key")

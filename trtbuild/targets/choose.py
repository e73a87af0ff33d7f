"""Which target a name means on this machine."""

from __future__ import annotations

from trtbuild.errors import InputError, MachineError
from trtbuild.targets.base import Target
from trtbuild.targets.simulation import Simulation
from trtbuild.targets.tensorrt_explicit import TensorRTRTX

NAMES = ("auto", "tensorrt", "tensorrt-rtx", "onnxruntime")


def choose(name: str) -> Target:
    """The target called `name`, ready to build; `auto` is onnxruntime as long as there is no tensorrt target.

    Raises InputError for an unknown name, MachineError where this machine cannot build for it.
    """
    target = by_name("onnxruntime" if name == "auto" else name)
    target.require()
    return target


def by_name(name: str) -> Target:
    """The target called `name`, whether or not this machine can build for it."""
    if name == "tensorrt":
        raise MachineError(
            "this trtbuild has no tensorrt target yet; use --target tensorrt-rtx or onnxruntime"
        )
    targets: dict[str, Target] = {target.name: target for target in (Simulation(), TensorRTRTX())}
    if name not in targets:
        raise InputError(f"unknown target {name!r}; there are {', '.join(NAMES)}")
    return targets[name]

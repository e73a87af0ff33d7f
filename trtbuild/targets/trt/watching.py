"""Engines as sides of a golden diff: what ships, and diagnostic builds that show what is inside."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from trtbuild.targets.base import Request, Side
from trtbuild.targets.sides import EngineSide
from trtbuild.targets.trt.binding import Binding
from trtbuild.targets.trt.running import open_engine

GIGABYTE = 10**9


def engine_side(
    binding: Binding,
    request: Request,
    name: str,
    plan: Callable[[], bytes],
    made: Callable[[Sequence[str], bool], bytes],
) -> Side:
    """`plan` gives the engine that ships, `made` one that shows these tensors, or all that are not fused.

    From TensorRT 10.12 on the tensors that are not fused can be watched in the engine as it is; before,
    they must become outputs, which changes what is fused.
    """
    watches = hasattr(binding.INetworkDefinition, "mark_unfused_tensors_as_debug_tensors")
    return EngineSide(
        name,
        request.model,
        plan=plan,
        marked=lambda tensors: made(tensors, False),
        debug=(lambda: made((), True)) if watches else None,
        open_engine=functools.partial(open_engine, binding),
        profiles=request.profiles,
        layer_bytes=int(request.recipe.validation.layer_memory_gb * GIGABYTE),
    )

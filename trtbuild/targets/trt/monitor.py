"""The builder's own progress on ours, where TensorRT has a progress monitor (from version 9 on)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtbuild.progress import STOP, Phases
from trtbuild.targets.trt.binding import Binding

if TYPE_CHECKING:
    import tensorrt as trt


def watch(binding: Binding, config: trt.IBuilderConfig, phases: Phases) -> None:
    """Have the build shown in `phases`, and cancelled once STOP is set. TensorRT before 9 shows nothing."""
    base: Any = getattr(binding, "IProgressMonitor", None)
    if base is None:
        return

    class Monitor(base):  # type: ignore[misc]  # a base class known at run time only
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step + 1)
            return not STOP.is_set()

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    config.progress_monitor = Monitor()

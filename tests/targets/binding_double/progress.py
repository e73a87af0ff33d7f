"""IProgressMonitor."""

from __future__ import annotations

from .native import Crash, Native, Overridable


class ProgressMonitor(Native, metaclass=Overridable):
    __slots__ = ("_initialised",)

    def __init__(self) -> None:
        self._initialised = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise Crash("phase_start is not overridden")

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise Crash("step_complete is not overridden")

    def phase_finish(self, phase_name: str) -> None:
        raise Crash("phase_finish is not overridden")

"""The best trials of a search as engines: what holds in the simulation holds there too, or does not."""

from __future__ import annotations

from trtbuild import pipeline, validation
from trtbuild.errors import MachineError
from trtbuild.progress import say
from trtbuild.targets.base import Target
from trtbuild.tune.findings import Findings, Judged, OnEngine
from trtbuild.tune.lab import Lab

MOST = 3
SIMULATED = ("onnxruntime", "tensorrt-rtx")
"""Targets whose golden check here runs the very model that the search ran."""


def checked(target: Target, lab: Lab, findings: Findings) -> list[OnEngine]:
    """Build the trials that pass, the best first, and check each as `validate` does, until one passes there,
    or MOST have not. They are stored as other builds are, and share the timing cache. Nothing is built where
    that would tell no more, or where the machine cannot.

    Raises what building and checking raise.
    """
    if target.name in SIMULATED:
        return []
    try:
        target.require()
    except MachineError as error:
        say(f"note: no engine was built to check this on: {error}")
        return []
    found: list[OnEngine] = []
    for finalist in [each for each in findings.by_merit() if each.judgement.passed][:MOST]:
        found.append(on_engine(finalist, target.name, lab))
        if found[-1].passed:
            break
    return found


def on_engine(finalist: Judged, target: str, lab: Lab) -> OnEngine:
    """One trial built for `target`, and what the golden check of that build says."""
    engine = lab.engine_of(finalist.trial)
    build = pipeline.build(engine, target)
    verdict = validation.validate(engine, build)
    figure = verdict.metric.candidate if verdict.metric else None
    outcome = "passes" if verdict.passed else "fails"
    say(f"trial {finalist.number} as an engine: {outcome}{'' if figure is None else f', {figure:.4f}'}")
    return OnEngine(finalist.number, build.key, verdict.passed, figure)

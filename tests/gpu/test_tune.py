"""tune on a real GPU: what the simulation finds is built and checked as an engine."""

from __future__ import annotations

from typing import Any

import pytest

from trtbuild import tuning
from trtbuild.ship import store
from trtbuild.targets.choose import by_name
from trtbuild.tune.options import Options

pytestmark = pytest.mark.gpu


def test_the_best_trials_are_checked_as_engines(make: Any) -> None:
    engine = make(recipe="[validation.outputs]\nsqnr_db = 15\n")
    document = tuning.tune(engine, by_name("tensorrt", None), Options(margin=False))
    (*refused, last) = document["engines"]
    assert not any(each["passed"] for each in refused)
    assert (document["outcome"] != "failed") is last["passed"]
    if last["passed"]:
        assert document["best"] == last["number"]
    assert engine.builds is not None
    for each in document["engines"]:
        built = store.read(engine.builds / each["build"])
        pins = document["trials"][each["number"] - 1]["pins"]
        assert built.manifest["target"]["target"] == "tensorrt"
        assert set(pins) <= set(built.manifest["precision"]["pinned"])

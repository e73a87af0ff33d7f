"""Trials that were built as engines: here by the target that is simulated, as no other can be run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trtbuild import finalists
from trtbuild.collect.collect import ON_THIS_MACHINE
from trtbuild.engine import Engine, open_engine
from trtbuild.model.model import Model
from trtbuild.recipe.tuned import Setting
from trtbuild.targets.choose import by_name
from trtbuild.tune.findings import Findings, Judged
from trtbuild.tune.judge import Judgement
from trtbuild.tune.lab import Lab
from trtbuild.tune.reference import Reference
from trtbuild.tune.trial import Trial

TEXT = "g (float[n,8] x) => (float[n,4] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }"
RECIPE = """
[validation.outputs]
sqnr_db = 30
"""
PINS = ("MatMul_h", "MatMul_y")


@pytest.fixture
def engine(write_toy: Callable[..., Path]) -> Engine:
    random = np.random.default_rng(0)
    weights = {"w1": random.standard_normal((8, 8)), "w2": random.standard_normal((8, 4))}
    folder = write_toy(TEXT, {name: array.astype(np.float32) for name, array in weights.items()}).parent
    (folder / "recipe.toml").write_text(RECIPE)
    for name in ("shards", "validation"):
        (folder / name).mkdir()
        np.save(folder / name / "a.npy", random.standard_normal((16, 8)).astype(np.float32))
    return open_engine(str(folder))


@pytest.fixture
def lab(engine: Engine) -> Lab:
    model = Model.open(engine.model)
    from trtbuild import tables

    samples = tables.open_shards(engine.require_samples(), engine, model)
    return Lab(engine, model, Reference.of(model, samples, {"y": -1}), ON_THIS_MACHINE)


def judged(number: int, pins: tuple[str, ...]) -> Judged:
    judgement = Judgement(
        passed=True, margin=True, figure=30.0 + number, drop=None, interval=None, failing=()
    )
    return Judged(Trial(Setting(method="minmax"), pins), (0.1,), number, len(pins), "", judgement)


def test_a_trial_is_built_as_its_recipe_says_and_checked(engine: Engine, lab: Lab) -> None:
    pinned = finalists.on_engine(judged(7, PINS), "onnxruntime", lab)
    assert (pinned.number, pinned.passed, pinned.figure) == (7, True, None)
    assert engine.builds is not None
    manifest = json.loads((engine.builds / pinned.build / "manifest.json").read_text())
    assert manifest["precision"]["pinned"] == list(PINS)
    assert not finalists.on_engine(judged(8, ()), "onnxruntime", lab).passed, "int8 is further off than 30 dB"


def test_nothing_is_built_where_it_would_tell_no_more(engine: Engine, lab: Lab) -> None:
    findings = Findings(judged=[judged(1, PINS)])
    for name in finalists.SIMULATED:
        assert finalists.checked(by_name(name, None), lab, findings) == []
    assert engine.builds is not None
    assert not engine.builds.exists()


def test_a_machine_without_a_gpu_says_so(
    engine: Engine, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finalists.checked(by_name("tensorrt", None), lab, Findings(judged=[judged(1, PINS)])) == []
    assert "note: no engine was built to check this on: " in capsys.readouterr().err

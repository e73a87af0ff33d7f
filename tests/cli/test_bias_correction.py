"""calibration.bias_correction: measured once, in the manifest, and taken from there on a device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Run

ON = ("--set", "calibration.bias_correction=true", "--set", "calibration.method=percentile:90")
"""A range that clips a tenth of what is there shifts means, so there is something to correct."""


BODY = """
    c1 = Conv<pads = [1,1,1,1]>(x, w1, b1) r1 = Relu(c1) c2 = Conv<pads = [1,1,1,1]>(r1, w2) r2 = Relu(c2)
    g = GlobalAveragePool(r2) y = Flatten(g)
"""


@pytest.fixture
def many(toy: Path, model_file: Callable[..., Path]) -> Path:
    """The toy with positive weights and samples, which clipping makes smaller on the whole; samples enough to
    take means and to hold some back."""
    random = np.random.default_rng(3)
    shapes = {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (3, 4, 3, 3)}
    weights = {name: random.random(shape, np.float32) for name, shape in shapes.items()}
    model_file(toy / "model.onnx", BODY, weights)
    for folder, counts in (("shards", (5, 66)), ("validation", (3, 4))):
        for index, count in enumerate(counts):
            x = random.exponential(1.0, (count, 3, 8, 8)).astype(np.float32)
            np.savez(toy / folder / f"{index}.npz", x=x)
    return toy


def manifest(run: Run, *options: str) -> dict[str, object]:
    result = run("build", "toy", *options, "--json")
    assert result.code == 0, result.err
    return json.loads((Path("engines/toy/builds") / result.document["key"] / "manifest.json").read_text())


def test_it_is_another_build_with_other_biases(run: Run, many: Path) -> None:
    plain, corrected = manifest(run, *ON[2:]), manifest(run, *ON)
    assert plain["biases"] == {}
    assert corrected["key"] != plain["key"]
    biases = corrected["biases"]
    assert isinstance(biases, dict)
    assert {"Conv_c1", "Conv_c2"} <= biases.keys()
    assert [len(biases[node]) for node in ("Conv_c1", "Conv_c2")] == [4, 3]
    assert corrected["ranges"] == plain["ranges"]


def test_it_is_nearer_to_the_golden(run: Run, many: Path) -> None:
    decibels = []
    for options in (ON[2:], ON):
        assert run("build", "toy", *options).code == 0
        document = run("validate", "toy", "--json").document
        decibels.append(document["outputs"][0]["difference"]["sqnr_db"])
        assert all(row["difference"] for row in document["layers"])
    assert decibels[1] > decibels[0] + 1


def test_it_is_measured_once(run: Run, many: Path) -> None:
    first = manifest(run, *ON)
    again = run("build", "toy", *ON)
    assert "found before" in again.err
    assert "built before" in again.err
    (path,) = (many / "builds" / "ranges").glob("*.biases.json")
    path.write_text(path.read_text()[:-5])
    broken = run("build", "toy", *ON)
    assert (broken.code, len(broken.errors)) == (2, 1)
    assert f"{path} is damaged" in broken.errors[0]
    path.unlink()
    assert manifest(run, *ON)["biases"] == first["biases"]


def test_a_device_takes_them_from_the_manifest(run: Run, many: Path) -> None:
    result = run("build", "toy", *ON, "-o", "x.onnx")
    assert result.code == 0
    biases = json.loads(Path("x.onnx.json").read_text())["biases"]
    for folder in ("shards", "builds"):
        (many / folder).rename(folder)
    assert manifest(run, *ON, "--ranges", "x.onnx.json")["biases"] == biases
    other = run("build", "toy", *ON, "--ranges", "x.onnx.json", "--pin", "last:1")
    assert other.code == 2
    assert "of a build with other pins" in other.errors[0]


def test_ranges_alone_are_not_enough(run: Run, many: Path) -> None:
    assert run("calibrate", "toy", "-o", "table.json").code == 0
    result = run("build", "toy", *ON, "--ranges", "table.json")
    assert (result.code, len(result.errors)) == (2, 1)
    assert "has ranges alone" in result.errors[0]


def test_nothing_to_correct_where_nothing_is_int8(run: Run, many: Path) -> None:
    assert manifest(run, *ON[:2], "--set", "precision.default=fp16")["biases"] == {}

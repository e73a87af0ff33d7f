"""calibration.equalize, from the command line: built, checked layer by layer, and taken elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.cli.conftest import Run, Tree
from trtbuild import tables

BUILD = ("build", "toy", "--target", "onnxruntime")
EQUALIZE = ("--set", "calibration.equalize=0.5")
SCALED = ["c1", "p1", "r1"]
"""What a factor passes on its way from the first Conv of the toy to the second, which reads p1."""


@pytest.fixture
def built(run: Run, toy: Path) -> dict[str, Any]:
    """The manifest of an equalized build of the toy."""
    result = run(*BUILD, *EQUALIZE, "--json")
    assert result.code == 0
    assert "equalized: 3 tensors" in result.err.splitlines()
    return result.document


def manifest_file(manifest: dict[str, Any]) -> Path:
    return Path("engines/toy/builds") / str(manifest["key"]) / "manifest.json"


def refused(run: Run, tree: Tree, words: str, *command: object) -> None:
    before = tree()
    result = run(*command)
    assert (result.code, result.out) == (2, "")
    assert len(result.errors) == 1
    assert words in result.errors[0]
    assert tree() == before


def test_the_manifest_says_how(built: dict[str, Any]) -> None:
    scaled = built["model"]["equalized"]
    assert sorted(scaled) == SCALED
    assert all(entry["axis"] == -3 and len(entry["factors"]) == 4 for entry in scaled.values())
    assert scaled["c1"] == scaled["r1"] == scaled["p1"]
    assert len(set(scaled["p1"]["factors"])) > 1


def test_it_is_another_build_with_other_ranges(run: Run, built: dict[str, Any]) -> None:
    plain = run(*BUILD, "--json").document
    assert plain["model"]["equalized"] == {}
    assert plain["key"] != built["key"]
    assert plain["artifact"]["sha256"] != built["artifact"]["sha256"]
    assert run(*BUILD, *EQUALIZE, "--json").document == built, "the store has both"
    other = run(*BUILD, "--set", "calibration.equalize=0.9", "--json").document
    assert other["model"]["equalized"] != built["model"]["equalized"]


def test_without_a_range_left_to_find_nothing_is_run(run: Run, built: dict[str, Any]) -> None:
    result = run(*BUILD, *EQUALIZE, "--pin", "type:MatMul")
    assert result.code == 0
    assert "equalizing" not in result.err
    assert "calibrating" not in result.err


def test_another_method_takes_the_same_factors(run: Run, built: dict[str, Any]) -> None:
    result = run(*BUILD, *EQUALIZE, "--set", "calibration.method=mse", "--json")
    assert "equalizing" not in result.err
    assert "calibrating" in result.err
    assert result.document["model"] == built["model"]


@pytest.mark.parametrize("pins", [(), ("--pin", "re:.*")], ids=["int8", "all pinned"])
def test_every_layer_is_compared_as_it_is_in_the_file(run: Run, toy: Path, pins: tuple[str, ...]) -> None:
    """All pinned, the candidate is the golden but for rounding: also where it computes with what is fed."""
    options = ("--set", "precision.budget=1", *pins)
    if pins:  # nothing would be lowered: leave one node, behind everything that is scaled
        options = ("--set", "precision.budget=1", "--pin", "re:Conv.*")
    assert run(*BUILD, *EQUALIZE, *options).code == 0
    document = run("validate", "toy", "--json").document
    (coverage,) = (check for check in document["checks"] if "compared" in check["name"])
    assert coverage["passed"]
    layers = {layer["tensor"]: layer for layer in document["layers"]}
    assert set(SCALED) < set(layers)
    for tensor in SCALED:
        layer = layers[tensor]
        assert layer["problem"] is None
        for figure in ("difference", "own", "inherited"):
            assert layer[figure]["sqnr_db"] is None or layer[figure]["sqnr_db"] > (120 if pins else 20)
    assert document["passed"]


def test_the_baseline_is_equalized_too(run: Run, built: dict[str, Any]) -> None:
    assert run(*BUILD).code == 0
    document = run("validate", "toy", "--baseline", built["key"], "--json").document
    assert document["metric"]["baseline"]["build"] == built["key"]
    assert document["metric"]["baseline"]["drop"] == 0


class TestElsewhere:
    def test_the_manifest_brings_ranges_and_factors(
        self, run: Run, built: dict[str, Any], tmp_path: Path
    ) -> None:
        """As on a device: no shards, no store."""
        shutil.copy(manifest_file(built), "server.json")
        shutil.rmtree("engines/toy/builds")
        shutil.rmtree("engines/toy/shards")
        options = ("--set", "inputs.x={min=[1,3,8,8],opt=[1,3,8,8],max=[8,3,8,8]}")
        again = run(*BUILD, *EQUALIZE, "--ranges", "server.json", "--json", *options)
        assert again.code == 0, again.err
        assert "equalized: 3 tensors, as --ranges server.json says" in again.err
        for part in ("model", "ranges", "artifact"):
            assert again.document[part] == built[part]
        assert run("validate", "toy").code == 0

    def test_the_recipe_need_not_ask_for_it(self, run: Run, built: dict[str, Any]) -> None:
        document = run(*BUILD, "--ranges", manifest_file(built), "--json").document
        assert document["artifact"] == built["artifact"]

    def test_a_bare_model(self, run: Run, toy: Path) -> None:
        command = ("build", toy / "model.onnx", "--target", "onnxruntime", "--calib", toy / "shards")
        result = run(*command, *EQUALIZE, "-o", "out.onnx", "--json")
        assert result.code == 0, result.err
        assert sorted(result.document["model"]["equalized"]) == SCALED
        assert not list(Path().glob(".out.onnx*"))
        checked = run("validate", "out.onnx", "--samples", toy / "validation", "--json")
        assert checked.document["passed"]

    def test_a_plain_table(self, run: Run, toy: Path, tree: Tree) -> None:
        assert run("calibrate", "toy", "--target", "onnxruntime", "-o", "plain.json").code == 0
        words = "--ranges plain.json was calibrated for a model that is not equalized"
        refused(run, tree, words, *BUILD, *EQUALIZE, "--ranges", "plain.json")
        words = "--ranges plain.json.cache was calibrated for a model that is not equalized"
        refused(run, tree, words, *BUILD, *EQUALIZE, "--ranges", "plain.json.cache")

    def test_a_table_of_an_equalized_model(self, run: Run, toy: Path, tree: Tree) -> None:
        """It says so, and not how: only a manifest does."""
        command = ("calibrate", "toy", "--target", "onnxruntime", *EQUALIZE, "-o", "table.json")
        assert run(*command).code == 0
        words = "--ranges table.json was calibrated for an equalized model"
        for options in ((), EQUALIZE):
            refused(run, tree, words, *BUILD, *options, "--ranges", "table.json")

    def test_a_plain_manifest(self, run: Run, toy: Path, tree: Tree) -> None:
        plain = manifest_file(run(*BUILD, "--json").document)
        refused(run, tree, "a model that is not equalized", *BUILD, *EQUALIZE, "--ranges", plain)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda scaled: scaled["p1"].update(factors=[1, 2, 4]), "cannot be equalized by 3 factors"),
            (lambda scaled: scaled["p1"].update(factors=[1, 2, 4, 0]), "factor 0.0: expected a float32"),
            (lambda scaled: scaled["p1"].update(factors=[1, 2, 4, float("nan")]), "factor nan"),
            (lambda scaled: scaled["p1"].update(axis=1), "axis 1: expected one counted from the end"),
            (lambda scaled: scaled["p1"].pop("axis"), "model.equalized is damaged ('axis')"),
            (lambda scaled: scaled.pop("r1"), "tensor 'r1' cannot be scaled as is recorded"),
            (lambda scaled: scaled.pop("p1"), "tensor 'c1' cannot be scaled as is recorded"),
            (lambda scaled: scaled.update(q=scaled["p1"]), "tensor 'q' cannot be scaled as is recorded"),
        ],
    )
    def test_a_damaged_manifest(
        self, run: Run, built: dict[str, Any], tree: Tree, change: Callable[[Any], None], words: str
    ) -> None:
        path = manifest_file(built)
        document = json.loads(path.read_text())
        change(document["model"]["equalized"])
        Path("damaged.json").write_text(json.dumps(document))
        refused(run, tree, words, *BUILD, "--ranges", "damaged.json")
        path.write_text(json.dumps(document))
        refused(run, tree, "delete ", "validate", "toy")


class TestTheStore:
    @pytest.fixture
    def factors(self, built: dict[str, Any]) -> Path:
        (path,) = Path("engines/toy/builds/ranges").glob("*.equalized.json")
        return path

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 1, "key": null}'])
    def test_a_damaged_file_is_named(self, run: Run, factors: Path, tree: Tree, content: str) -> None:
        factors.write_text(content)
        refused(run, tree, f"{factors} is damaged", *BUILD, *EQUALIZE)

    def test_other_factors_are_not_taken_for_these(self, run: Run, factors: Path) -> None:
        """A range table that was made with other factors is stale."""
        document = json.loads(factors.read_text())
        for entry in document["equalized"].values():
            entry["factors"] = [2 * factor for factor in entry["factors"]]
        factors.write_text(json.dumps(document))
        result = run(*BUILD, *EQUALIZE)
        assert result.code == 0
        assert "calibrating" in result.err

    @pytest.mark.parametrize("bare", [True, False], ids=["bare", "in a folder"])
    def test_counts_that_were_left_are_not_mixed(
        self, run: Run, toy: Path, monkeypatch: pytest.MonkeyPatch, bare: bool
    ) -> None:
        """Counts of the plain model, of the same tensors, lie where another run goes on from them."""
        monkeypatch.setattr("trtbuild.collect.checkpoint.SECONDS", 0.0)
        monkeypatch.setattr(tables, "forget", lambda how: None)  # as after a crash
        model = (toy / "model.onnx", "--calib", toy / "shards") if bare else ("toy",)
        options = ("--target", "onnxruntime", "--set", "calibration.method=mse", "--json")
        plain = ("calibrate", *model, *options, "-o", "table.json")
        first = run(*plain).document["ranges"]
        assert list((Path() if bare else toy).rglob("*.partial/*.npz"))
        second = run(*plain, *EQUALIZE).document["ranges"]
        assert second["x"] == first["x"]
        for left in list(Path().rglob("*.partial")):
            shutil.rmtree(left)
        shutil.rmtree(toy / "builds", ignore_errors=True)
        assert run(*plain, *EQUALIZE).document["ranges"] == second
        assert second["p1"] != first["p1"]


class TestRefused:
    @pytest.mark.parametrize("alpha", ["-0.1", "1.1", "nan", '"half"', "true"])
    def test_no_share(self, run: Run, toy: Path, tree: Tree, alpha: str) -> None:
        refused(run, tree, "calibration.equalize", *BUILD, "--set", f"calibration.equalize={alpha}")

    def test_a_model_with_its_own_scales(
        self, run: Run, toy: Path, tree: Tree, model_file: Callable[..., Path]
    ) -> None:
        body = """
            q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) f = Flatten(d) y = MatMul(f, w)
        """
        weights = {"s": np.float32(0.05), "z": np.int8(0), "w": (192, 3)}
        model_file(toy / "model.onnx", body, weights)
        refused(run, tree, "brings its own Q/DQ", *BUILD, *EQUALIZE)

    def test_implicit_mode(
        self, run: Run, built: dict[str, Any], tree: Tree, tensorrt: Callable[..., Any]
    ) -> None:
        """It takes the file as it is."""
        tensorrt("10.3.0")
        command = ("build", "toy", "--target", "tensorrt")
        for options in (EQUALIZE, ("--ranges", manifest_file(built))):
            refused(run, tree, "cannot be built in implicit mode", *command, *options)

    def test_nothing_to_equalize_is_said(self, run: Run, toy: Path, model_file: Callable[..., Path]) -> None:
        model_file(toy / "model.onnx", "f = Flatten(x) y = MatMul(f, w)", {"w": (192, 3)})
        result = run(*BUILD, *EQUALIZE)
        assert result.code == 0
        assert "note: no tensor can be equalized" in result.err

    def test_nan_in_a_sample(self, run: Run, toy: Path, model_file: Callable[..., Path]) -> None:
        model_file(
            toy / "model.onnx",
            "l = Log(x) m = Mul(l, s) c = Conv(m, w) g = GlobalAveragePool(c) y = Flatten(g)",
            {"s": np.float32(2), "w": (3, 3, 3, 3)},
        )
        result = run(*BUILD, *EQUALIZE)
        assert result.code == 2
        assert "tensor 'm' has NaN or Inf in" in result.errors[0]


def spread(rng: np.random.Generator) -> NDArray[np.float32]:
    """A factor per channel, 1000 apart."""
    return (10 ** rng.uniform(-1.5, 1.5, (1, 16, 1, 1))).astype(np.float32)


@pytest.mark.parametrize("group", [16, 1], ids=["depthwise", "dense"])
def test_channels_a_thousand_apart(run: Run, toy: Path, model_file: Callable[..., Path], group: int) -> None:
    """A learned scale per channel in front of a Conv: one int8 scale leaves the small channels no bits."""
    rng = np.random.default_rng(0)
    scale = spread(rng)
    kernel = rng.standard_normal((16, 16 // group, 3, 3)).astype(np.float32)
    kernel = kernel / (scale.reshape(-1, 1, 1, 1) if group > 1 else scale)  # all channels matter alike
    body = """
        a = Conv(x, w1) h = HardSwish(a) m = Mul(h, scale) s = Add(m, shift) c = Conv<group = GROUP>(s, w2)
        r = Relu(c) t = Transpose<perm = [0,2,3,1]>(r) e = MatMul(t, w3) y = ReduceMean<keepdims=0>(e, axes)
    """.replace("GROUP", str(group))
    weights = {
        **{"w1": (16, 3, 3, 3), "w3": (16, 3), "scale": scale, "w2": kernel.astype(np.float32)},
        **{"shift": np.float32(0.125), "axes": np.asarray([1, 2], np.int64)},
    }
    model_file(toy / "model.onnx", body, weights)
    found = {}
    for name, options in (("plain", ()), ("equalized", EQUALIZE)):
        assert run(*BUILD, *options, "--set", "precision.budget=1").code == 0
        document = run("validate", "toy", "--set", "validation.max_drop=1", "--json").document
        (output,) = document["outputs"]
        found[name] = output["difference"]["sqnr_db"]
    assert found["equalized"] > found["plain"] + 10

"""tuned.toml beside a recipe, from the command line: what is said, built, refused and left aside."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run, Tree
from trtbuild.model.model import Model
from trtbuild.recipe import Pin, Tuned, tuned
from trtbuild.recipe.tuned import Origin, Outcome, Setting

PINS = ("pins", "toy", "--target", "onnxruntime")
BUILD = ("build", "toy", "--target", "onnxruntime")
CALIBRATE = ("calibrate", "toy", "--target", "onnxruntime")
SAID = "tuned.toml: auto, equalized; 1 pin"
FOUND = Setting(method="auto", equalize=0.5)
WHY = "tune: 0.99, without it 0.95"
ALL_PINS = ("--set", "precision.budget=1")

Write = Callable[..., None]


@pytest.fixture
def write(toy: Path) -> Write:
    """Put a tuned.toml beside the toy's recipe, found for its model."""

    def put(*pins: Pin, calibration: Setting = FOUND, outcome: Outcome = "passed", model: str = "") -> None:
        sha256 = model or Model.open(toy / "model.onnx").sha256
        origin = Origin(model=sha256, trtbuild="0.1.0", outcome=outcome)
        tuned.write(toy / "tuned.toml", Tuned(tuned=origin, calibration=calibration, pin=pins))

    put(Pin(name="Conv_c2", reason=WHY))
    return put


def pinned(run: Run, *options: object) -> dict[str, str]:
    """The pinned nodes and their reasons."""
    document = run(*PINS, *options, "--json").document
    return {name: document["nodes"][name]["reason"] for name in document["pinned"]}


def said(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("tuned.toml")]


class TestPins:
    def test_with_their_reasons(self, run: Run, write: Write) -> None:
        assert pinned(run) == {"Conv_c2": f"rule Conv_c2: {WHY}"}

    def test_the_recipes_own_come_after(self, run: Run, write: Write, recipe: Callable[..., None]) -> None:
        recipe('[[pin]]\nname = "Conv_c2"\nto = "int8"\n[[pin]]\ntype = "MatMul"\n')
        assert list(pinned(run)) == ["MatMul_m"]
        assert list(pinned(run, "--set", "pin=[]")) == ["Conv_c2"]

    def test_those_of_the_command_line_come_last(self, run: Run, write: Write) -> None:
        assert list(pinned(run, "--pin", "type:MatMul")) == ["Conv_c2", "MatMul_m"]
        assert pinned(run, "--pin", "Conv_c2=int8") == {}

    def test_the_budget_counts_them(self, run: Run, write: Write) -> None:
        result = run(*PINS, "--set", "precision.budget=0.1")
        assert (result.code, len(result.errors)) == (2, 1)
        assert "Rules: Conv_c2 (1)" in result.errors[0]

    def test_one_that_is_no_node(self, run: Run, write: Write) -> None:
        write(Pin(name="Conv_c3"))
        result = run(*PINS)
        assert (result.code, len(result.errors)) == (2, 1)
        assert "name 'Conv_c3' matches no node; nearest: Conv_c" in result.errors[0]


class TestBuild:
    @pytest.fixture
    def built(self, run: Run, write: Write) -> dict[str, Any]:
        return run(*BUILD, "--json").document

    def test_is_what_the_recipe_with_the_same_would_be(
        self, run: Run, toy: Path, built: dict[str, Any], recipe: Callable[..., None]
    ) -> None:
        assert built["precision"]["pinned"] == ["Conv_c2"]
        assert built["precision"]["nodes"]["Conv_c2"]["reason"] == f"rule Conv_c2: {WHY}"
        (toy / "tuned.toml").unlink()
        recipe(
            f'[[pin]]\nname = "Conv_c2"\nreason = "{WHY}"\n',
            **{"[calibration]": '[calibration]\nmethod = "auto"\nequalize = 0.5'},
        )
        assert run(*BUILD, "--json").document == built, "found in the store"

    def test_without_it(self, run: Run, built: dict[str, Any]) -> None:
        plain = run(*BUILD, "--set", "tuned=false", "--json")
        assert said(plain.err) == []
        assert plain.document["precision"]["pinned"] == []
        assert plain.document["ranges"]["key"]["method"] != built["ranges"]["key"]["method"]

    def test_the_recipe_may_want_none(self, run: Run, write: Write, toy: Path) -> None:
        path = toy / "recipe.toml"
        path.write_text("tuned = false\n" + path.read_text())
        assert pinned(run) == {}
        assert list(pinned(run, "--set", "tuned=true")) == ["Conv_c2"]

    def test_a_bare_model_has_none(self, run: Run, write: Write, toy: Path) -> None:
        result = run(
            "build",
            *(toy / "model.onnx", "--calib", toy / "shards", "--set", "calibration.method=minmax"),
            *("--target", "onnxruntime", "-o", toy / "out.onnx", "--json"),
        )
        assert said(result.err) == []
        assert result.document["precision"]["pinned"] == []

    def test_it_is_checked_as_any_build(self, run: Run, built: dict[str, Any]) -> None:
        document = run("validate", "toy", "--json").document
        assert document["build"] == built["key"]
        assert {pin["node"]: pin["reason"] for pin in document["pins"]} == {"Conv_c2": f"rule Conv_c2: {WHY}"}


class TestSaid:
    @pytest.mark.parametrize("command", [PINS, BUILD, CALIBRATE], ids=lambda command: command[0])
    def test_once(self, run: Run, write: Write, command: tuple[str, ...]) -> None:
        for options in ((), ("--json",)):
            result = run(*command, *options)
            assert result.code == 0
            assert said(result.err) == [SAID]

    @pytest.mark.parametrize("outcome", ["failed", "interrupted"])
    def test_how_it_ended(self, run: Run, write: Write, outcome: Outcome) -> None:
        write(outcome=outcome)
        assert said(run(*PINS).err) == [f"tuned.toml: auto, equalized; 0 pins ({outcome})"]

    @pytest.mark.parametrize(
        "override", ["method=minmax", "equalize=0.25", "bias_correction=true", "method='percentile:99.99'"]
    )
    def test_that_an_override_goes_before_it(self, run: Run, write: Write, override: str) -> None:
        result = run(*PINS, "--set", f"calibration.{override}")
        assert said(result.err) == [f"{SAID}; --set goes before it"]
        result = run(*PINS, "--set", "calibration.method=auto")
        assert said(result.err) == [SAID]

    def test_nothing_without_one(self, run: Run, toy: Path) -> None:
        for command in (PINS, BUILD, CALIBRATE):
            assert said(run(*command).err) == []


def refused(run: Run, tree: Tree, *command: object) -> str:
    """Exit code 2, one line, nothing written; the line."""
    before = tree()
    result = run(*command)
    assert (result.code, result.out, said(result.err)) == (2, "", [])
    assert tree() == before
    (line,) = result.errors
    return line


class TestStale:
    @pytest.fixture
    def stale(self, write: Write) -> None:
        write(Pin(name="gone"), model="0" * 64)

    @pytest.mark.parametrize("command", [PINS, BUILD, CALIBRATE], ids=lambda command: command[0])
    def test_is_refused(self, run: Run, tree: Tree, stale: None, command: tuple[str, ...]) -> None:
        assert refused(run, tree, *command) == (
            "error: engines/toy/tuned.toml was found for another model than engines/toy/model.onnx; run "
            "`trtbuild tune engines/toy` again, delete it, or --set tuned=false"
        )
        assert run(*command, "--set", "tuned=false").code == 0

    def test_the_model_was_exported_again(
        self, run: Run, write: Write, toy: Path, tree: Tree, model_file: Callable[..., Path]
    ) -> None:
        model_file(toy / "model.onnx", "f = Flatten(x) y = MatMul(f, w)", {"w": (192, 3)})
        assert "was found for another model" in refused(run, tree, *BUILD)

    def test_a_build_from_before_is_still_checked(self, run: Run, write: Write) -> None:
        key = run(*BUILD, "--json").document["key"]
        write(model="0" * 64)
        result = run("validate", "toy", "--json")
        assert result.code == 0
        assert result.document["build"] == key
        assert said(result.err) == []

    def test_samples_are_packed_and_checked(self, run: Run, stale: None, toy: Path) -> None:
        assert run("shards", "check", toy / "shards", "--engine", "toy").code == 0

    def test_bench(self, run: Run, stale: None, tree: Tree, tensorrt: Callable[..., Any]) -> None:
        tensorrt("10.3.0")
        assert "was found for another model" in refused(run, tree, "bench", "toy", "--mode", "explicit")


class TestDamaged:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("", "engines/toy/tuned.toml: no [tuned] table, so tune did not write it"),
            ("[tuned", "engines/toy/tuned.toml: not valid TOML: "),
            ("[tuned]\nmodle = 3\n", "engines/toy/tuned.toml: tuned.model: Field required; "),
        ],
    )
    def test_is_refused(self, run: Run, toy: Path, tree: Tree, content: str, words: str) -> None:
        (toy / "tuned.toml").write_text(content)
        for command in (PINS, BUILD, CALIBRATE):
            assert words in refused(run, tree, *command)
        assert run(*PINS, "--set", "tuned=false").code == 0

    def test_a_folder(self, run: Run, toy: Path, tree: Tree) -> None:
        (toy / "tuned.toml").mkdir()
        assert "engines/toy/tuned.toml: Is a directory" in refused(run, tree, *PINS)


def test_bench_without_a_gpu_says_what_it_said(run: Run, write: Write, toy: Path) -> None:
    with_it = run("bench", "toy")
    assert with_it.code == 3
    (toy / "tuned.toml").unlink()
    assert run("bench", "toy") == with_it


def test_a_deployed_folder_takes_it_along(run: Run, write: Write, toy: Path) -> None:
    """As on a device: the ranges from a manifest; recipe and tuned.toml, no shards and no store."""
    built = run(*BUILD, "--json").document
    manifest = Path("server.json")
    shutil.copy(toy / "builds" / built["key"] / "manifest.json", manifest)
    shutil.rmtree(toy / "builds")
    shutil.rmtree(toy / "shards")
    profile = "inputs.x={min=[1,3,8,8],opt=[1,3,8,8],max=[8,3,8,8]}"
    again = run(*BUILD, "--ranges", manifest, "--set", profile, "--json").document
    assert (again["artifact"], again["precision"]) == (built["artifact"], built["precision"])

"""The release step: drawn samples, the build in production, activations kept, and its script."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run, Tree, refused

SCRIPT = Path(__file__).parents[2] / "scripts" / "golden-check"
WHOLE = 7  # validation samples


@pytest.fixture
def built(run: Run, toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert run("build", "toy").code == 0
    return toy


def key(run: Run, *options: str) -> str:
    return str(run("build", "toy", *options, "--json").document["key"])


class TestDraw:
    def test_so_many_are_checked_and_it_is_said(self, run: Run, built: Path) -> None:
        document = run("validate", "toy", "--draw", "4", "--seed", "3", "--json").document
        assert document["samples"]["count"] == document["metric"]["samples"] == 4
        assert document["samples"]["drawn"] == {"of": WHOLE, "seed": 3}
        assert document["samples"]["sha256"] == run("validate", "toy", "--json").document["samples"]["sha256"]
        assert document["outputs"][0]["difference"]["count"] == 4 * 3

    def test_the_seed_decides_which(self, run: Run, built: Path) -> None:
        def outputs(seed: int) -> Any:
            return run("validate", "toy", "--draw", "2", "--seed", seed, "--json").document["outputs"]

        assert outputs(1) == outputs(1)
        assert any(outputs(1) != outputs(seed) for seed in range(2, 6))

    def test_against_a_stored_golden_of_all(self, run: Run, built: Path) -> None:
        assert run("validate", "toy", "--save-golden", "golden.st", "--draw", "1").code == 0
        result = run("validate", "toy", "--golden", "golden.st", "--draw", "5", "--json")
        assert (result.code, result.document["samples"]["count"]) == (0, 5)

    def test_the_kept_verdict_says_so(self, run: Run, built: Path) -> None:
        assert run("validate", "toy", "--draw", "4").code == 0
        kept = json.loads((built / "builds" / key(run) / "verdict.json").read_text())
        assert kept["samples"]["count"] == 4
        assert kept["samples"]["drawn"] == {"of": WHOLE, "seed": 0}

    def test_more_than_there_are(self, run: Run, built: Path, tree: Tree) -> None:
        refused(run, tree, f"--draw 8: engines/toy/validation has {WHOLE} samples", "--draw", "8")

    @pytest.mark.parametrize("options", [("--draw", "0"), ("--draw", "x"), ("--seed", "-1")])
    def test_no_number_of_samples(self, run: Run, built: Path, options: tuple[str, str]) -> None:
        assert run("validate", "toy", *options).code == 2


class TestBaseline:
    def test_the_build_itself_is_refused(self, run: Run, built: Path, tree: Tree) -> None:
        """An engine's name means its newest build, which is the one that is checked."""
        for named in ("toy", key(run), built / "builds" / key(run)):
            refused(run, tree, f"--baseline: {key(run)} is the build that is checked", "--baseline", named)

    def test_an_equal_one_is_not_worse_as_far_as_the_samples_tell(self, run: Run, built: Path) -> None:
        """Seven of them may hide a share of 0.41."""
        production = key(run, "--set", "precision.fallback=fp16")
        newest = key(run)
        options = ("--baseline", production, "--set", "validation.max_drop=0.5", "--json")
        document = run("validate", "toy", "--build", newest, *options).document
        found = document["metric"]["baseline"]
        assert (found["build"], found["drop"], found["outcome"]) == (production, 0.0, "not worse")
        (check,) = (check for check in document["checks"] if "against" in check["name"])
        assert check["passed"]
        result = run("validate", "toy", "--build", newest, *options[:2], "--json")
        assert result.code == 1
        assert result.document["metric"]["baseline"]["outcome"] == "undecided"

    def test_a_worse_one_fails(self, run: Run, built: Path) -> None:
        """The metric is the score of the right class: of two different builds one is worse."""
        metric = (built / "metric.py").read_text().replace(".argmax() == label", "[0, label]")
        (built / "metric.py").write_text(metric)
        builds = key(run), key(run, "--set", "precision.default=fp16")
        demands = ("--set", "validation.max_drop=1", "--set", "validation.baseline_drop=0")
        drops = []
        for one, other in (builds, builds[::-1]):
            result = run("validate", "toy", "--build", one, "--baseline", other, *demands, "--json")
            found = result.document["metric"]["baseline"]
            drops.append(found["drop"])
            if found["drop"] > 0:
                (failed,) = (check for check in result.document["checks"] if not check["passed"])
                assert failed["name"] == f"metric metric.py:top1 against {other}"
                assert result.code == 1
        assert drops[0] == pytest.approx(-drops[1])
        assert drops[0] != 0

    def test_by_folder_key_and_file(self, run: Run, built: Path) -> None:
        production = key(run, "--pin", "last:1", "-o", "x.onnx")
        newest, enough = key(run), ("--set", "validation.baseline_drop=1")
        for named in (built / "builds" / production, "x.onnx", production[:8]):
            assert run("validate", "toy", "--build", newest, "--baseline", named, *enough).code == 0
        folder = built / "builds" / newest
        assert run("validate", folder, "--baseline", production[:8], *enough).code == 0

    def test_none_such(self, run: Run, built: Path, tree: Tree) -> None:
        refused(run, tree, "nothing", "--baseline", "nothing")

    def test_of_another_model(self, run: Run, built: Path, model_file: Callable[..., Path]) -> None:
        assert run("build", "toy", "-o", "x.onnx").code == 0
        shutil.rmtree(built / "builds")
        model_file(built / "model.onnx", "f = Flatten(x) y = MatMul(f, w)", {"w": (192, 3)})
        assert run("build", "toy").code == 0
        result = run("validate", "toy", "--baseline", "x.onnx")
        assert result.code == 2
        assert "is not the model that" in result.errors[0]

    def test_of_other_bytes(self, run: Run, built: Path) -> None:
        assert run("build", "toy", "--pin", "last:1", "-o", "x.onnx").code == 0
        assert run("build", "toy").code == 0
        with Path("x.onnx").open("ab") as stream:
            stream.write(b"?")
        result = run("validate", "toy", "--baseline", "x.onnx")
        assert (result.code, len(result.errors)) == (2, 1)
        assert "SHA-256 differs" in result.errors[0]

    def test_without_a_metric(self, run: Run, built: Path, recipe: Callable[..., None]) -> None:
        recipe(
            **{
                'metric = "metric.py:top1"\n': "",
                'labels = "validation/labels.json"\n': "",
                "max_drop = 0.25\n": "",
            }
        )
        production = key(run, "--pin", "last:1")
        result = run("validate", "toy", "--build", key(run), "--baseline", production)
        assert result.code == 2
        assert "there is none" in result.errors[0]


class TestActivations:
    def files(self, toy: Path) -> list[Path]:
        return sorted((toy / "builds" / "golden" / "activations").glob("*/*.safetensors"))

    def test_kept_once_and_read_after_that(self, run: Run, built: Path) -> None:
        first = run("validate", "toy", "--json")
        assert "golden activations: 7 samples kept in" in first.err
        assert len(self.files(built)) == WHOLE
        second = run("validate", "toy", "--json")
        assert "golden activations: 7 samples read from" in second.err
        assert first.document == second.document

    def test_other_pins_read_the_same(self, run: Run, built: Path) -> None:
        assert run("validate", "toy").code == 0
        assert run("build", "toy", "--pin", "last:1").code == 0
        assert "golden activations: 7 samples read" in run("validate", "toy").err
        assert len(self.files(built)) == WHOLE

    def test_nothing_is_kept_where_nothing_may_be(self, run: Run, built: Path) -> None:
        result = run("validate", "toy", "--set", "validation.golden_disk_gb=0")
        assert (result.code, self.files(built)) == (0, [])
        assert "golden activations" not in result.err

    def test_a_damaged_one(self, run: Run, built: Path) -> None:
        assert run("validate", "toy").code == 0
        (path, *_) = self.files(built)
        path.write_bytes(path.read_bytes()[:-1])
        result = run("validate", "toy")
        assert (result.code, result.out, len(result.errors)) == (2, "", 1)
        assert f"{path} is damaged" in result.errors[0]
        assert "delete it" in result.errors[0]

    def test_another_model_has_its_own(self, run: Run, built: Path, model_file: Callable[..., Path]) -> None:
        assert run("validate", "toy").code == 0
        model_file(built / "model.onnx", "f = Flatten(x) y = MatMul(f, w)", {"w": (192, 3)})
        assert run("build", "toy").code == 0
        assert "samples read" not in run("validate", "toy").err

    def test_builds_do_not_take_them_for_one(self, run: Run, built: Path) -> None:
        assert run("validate", "toy").code == 0
        assert [path.name for path in (built / "builds").iterdir() if len(path.name) == 16] == [key(run)]
        assert run("inspect", "toy", "--json").document["key"] == key(run)


@pytest.mark.skipif(shutil.which("bash") is None, reason="the script needs bash")
class TestScript:
    def check(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(SCRIPT), *map(str, arguments)],
            env={**os.environ, "PYTHON": sys.executable},
            capture_output=True,
            text=True,
            check=False,
        )

    def test_same_inputs_same_bytes(self, built: Path, run: Run) -> None:
        production, newest = key(run, "--pin", "last:1"), key(run)
        options = ("--build", newest, "--baseline", production, "--set", "validation.baseline_drop=1")

        def made(folder: str) -> dict[str, bytes]:
            done = self.check("toy", folder, "--samples", 4, "--seed", 2, *options)
            assert done.returncode == 0, done.stderr
            assert "passed" in done.stdout
            return {path.name: path.read_bytes() for path in Path(folder).iterdir()}

        first, second = made("one"), made("two")
        assert first == second
        assert first.keys() == {"golden-check.json", "golden-check.xml", "golden-check.html"}
        assert json.loads(first["golden-check.json"])["samples"]["drawn"] == {"of": WHOLE, "seed": 2}

    def test_a_folder_that_cannot_be_made(self, built: Path) -> None:
        Path("file").write_text("")
        done = self.check("toy", "file/out")
        assert (done.returncode, done.stdout) == (2, "")

    def test_the_gate_says_no(self, built: Path) -> None:
        done = self.check("toy", "out", "--samples=3", "--set", "validation.outputs.sqnr_db=500")
        assert done.returncode == 1
        assert not json.loads(Path("out/golden-check.json").read_text())["passed"]

    @pytest.mark.parametrize("arguments", [(), ("toy",), ("toy", "--samples", "3"), ("--samples", "3")])
    def test_called_wrongly(self, built: Path, arguments: tuple[str, ...]) -> None:
        done = self.check(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("usage: ")

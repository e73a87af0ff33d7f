"""The README's examples run, and its recipe reference is a recipe."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trtbuild import recipe
from trtbuild.golden.verdict import Verdict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

README = Path(__file__).resolve().parents[1] / "README.md"


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_python_example_runs(
    prepare: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = ("--calibration", "8", "--validation", "8")
    engine = prepare("ocr-rec", *options, needs=("rapidocr_onnxruntime", "PIL", "font_roboto"))
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "ocr-rec").symlink_to(engine)
    monkeypatch.chdir(tmp_path)

    namespace: dict[str, object] = {}
    exec(compile(block("python"), str(README), "exec"), namespace)

    verdict = namespace["verdict"]
    assert isinstance(verdict, Verdict)
    assert verdict.metric is not None
    assert verdict.metric.samples == 8


def test_the_recipe_reference_names_every_key() -> None:
    table = tomllib.loads(block("toml"))
    parsed = recipe.parse(table, "README.md")
    assert len(parsed.pin) == len(recipe.SELECTORS)
    for name, section in recipe.Recipe.model_fields.items():
        key = section.alias or name
        assert key in table, f"the recipe reference lacks [{key}]"
        fields = getattr(section.annotation, "model_fields", {})
        missing = set(fields) - set(table[key]) if fields else set()
        assert not missing, f"the recipe reference lacks {key}: {missing}"

"""The user's own functions: found, loaded, and blamed with a line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from trtbuild.errors import InputError
from trtbuild.functions import from_file, from_module, place_in


@pytest.fixture
def modules(tmp_path: Path, monkeypatch):
    """Writes modules that can be imported; they are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)

    def write(**texts: str) -> Path:
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text)
        return tmp_path

    yield write
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_a_function_of_a_module(modules, capsys):
    modules(some_module="print('loading')\ndef f(): return 3\n")
    assert from_module("some_module", "f")() == 3
    assert capsys.readouterr() == ("", "loading\n")
    assert from_module("os.path", "join")("a", "b") == "a/b"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no_module raised ModuleNotFoundError when loaded: No module named 'no_module'"),
        (
            "import nothing_like_it",
            "raised ModuleNotFoundError when loaded: No module named 'nothing_like_it'",
        ),
        ("raise SystemExit('bye')", "raised SystemExit when loaded: bye; -v shows its traceback"),
        ("def other(): pass", "no_module has no function 'f'"),
        ("def ff(): pass", "no_module has no function 'f'; nearest: ff"),
        ("f = 3", "no_module has no function 'f'"),
    ],
)
def test_what_is_no_function_of_a_module(modules, text, words):
    if text is not None:
        modules(no_module=text)
    with pytest.raises(InputError, match=words):
        from_module("no_module", "f")


@pytest.mark.parametrize("name", ["", "a-b", "1", "a..b", "."])
def test_what_is_no_module(name):
    with pytest.raises(InputError, match="when loaded"):
        from_module(name, "f")


def test_a_file_that_is_missing_says_what_it_was_to_be(tmp_path: Path):
    with pytest.raises(InputError, match=r"x\.py: no such generator file"):
        from_file(tmp_path / "x.py", "f", "generator")


def test_the_line_that_raised_is_the_users_own(modules):
    file = modules(own="import json\ndef f():\n    g()\ndef g():\n    json.loads('{')\n") / "own.py"
    function = from_file(file, "f", "generator")
    with pytest.raises(ValueError, match="Expecting") as caught:
        function()
    assert place_in(caught.value, function) == f"{file}:5"  # not the line in json that raised
    assert place_in(ValueError("elsewhere"), function) == ""
    assert place_in(caught.value, len) == ""


def test_a_file_that_was_just_changed(tmp_path, monkeypatch):
    """Of the same size, within the same second: never the older one from bytecode beside it."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "metric.py"
    for value in (1, 2, 3):
        path.write_text(f"def f(): return {value}\n")
        os.utime(path, (1_000_000_000, 1_000_000_000))
        assert from_file(path, "f", "metric")() == value
    assert [entry.name for entry in tmp_path.iterdir()] == ["metric.py"]

"""What was measured once is not measured again: not after a kill either, and not by two at once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from trtbuild.errors import InputError
from trtbuild.tune.journal import Journal


def measured(journal: Journal, of: str, value: float = 1.5) -> tuple[float, bool]:
    """The result, and whether it was measured now."""
    calls = []

    def measure() -> float:
        calls.append(of)
        return value

    return journal.recall("error", {"of": of}, measure, float, float), bool(calls)


def test_a_result_is_measured_once(tmp_path: Path) -> None:
    path = tmp_path / "tune" / "a.jsonl"
    with Journal(path, "key") as journal:
        assert measured(journal, "x", 0.1) == (0.1, True)
        assert measured(journal, "x", 7.0) == (0.1, False)
        assert measured(journal, "y", 7.0) == (7.0, True)
    with Journal(path, "key") as journal:
        assert measured(journal, "x", 9.0) == (0.1, False)
        assert measured(journal, "y", 9.0) == (7.0, False)
        assert measured(journal, "z", 9.0) == (9.0, True)


@pytest.mark.parametrize("value", [0.1 + 0.2, 5e-324, math.inf])
def test_a_number_comes_back_to_the_bit(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.jsonl"
    with Journal(path, "key") as journal:
        measured(journal, "x", value)
    with Journal(path, "key") as journal:
        assert measured(journal, "x", 0.0) == (value, False)


def test_what_a_kill_cut_off_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Journal(path, "key") as journal:
        measured(journal, "x")
        measured(journal, "y")
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with Journal(path, "key") as journal:
            assert measured(journal, "y", 1.5)[0] == 1.5
        assert json.loads(path.read_bytes().splitlines()[0])["key"] == "key"
        with Journal(path, "key") as journal:
            assert measured(journal, "y", 9.0) == (1.5, False)


def test_what_fails_is_not_kept(tmp_path: Path) -> None:
    def fail() -> float:
        raise InputError("no")

    path = tmp_path / "a.jsonl"
    with Journal(path, "key") as journal:
        with pytest.raises(InputError, match="no"):
            journal.recall("error", {"of": "x"}, fail, float, float)
        assert measured(journal, "x") == (1.5, True)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Journal(path, "key"), pytest.raises(InputError, match="in use: another tune"):
        Journal(path, "key")
    with Journal(path, "key") as journal:
        assert measured(journal, "x") == (1.5, True)


def _middle(lines: list[str]) -> list[str]:
    return [lines[0], lines[1][:-5], *lines[2:]]


def _other_key(lines: list[str]) -> list[str]:
    return [lines[0].replace("key", "kez"), *lines[1:]]


def _other_schema(lines: list[str]) -> list[str]:
    return [lines[0].replace("1", "2"), *lines[1:]]


def _no_entry(lines: list[str]) -> list[str]:
    return [lines[0], "[]", *lines[2:]]


@pytest.mark.parametrize("damage", [_middle, _other_key, _other_schema, _no_entry])
def test_a_damaged_file_is_named(tmp_path: Path, damage: Callable[[list[str]], list[str]]) -> None:
    path = tmp_path / "a.jsonl"
    with Journal(path, "key") as journal:
        measured(journal, "x")
        measured(journal, "y")
    path.write_text("\n".join(damage(path.read_text().splitlines())) + "\n")
    with pytest.raises(InputError, match=r"a\.jsonl is damaged .*; delete it"):
        Journal(path, "key")


def test_a_result_that_is_none_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Journal(path, "key") as journal:
        measured(journal, "x")
    path.write_text(path.read_text().replace("1.5", '"much"'))
    with Journal(path, "key") as journal, pytest.raises(InputError, match=r"is damaged .*delete it"):
        measured(journal, "x")

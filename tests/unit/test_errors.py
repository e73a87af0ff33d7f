"""Foreign errors -> ours -> exit codes, in one table."""

import errno

import pytest

from calibrators.errors import CalibratorError, ShardError, TableError
from calibrators.table import RangeTable
from trtbuild.errors import (
    BuildError,
    ExitCode,
    InputError,
    LostPinError,
    MachineError,
    TrtbuildError,
    as_trtbuild_error,
    one_line,
)


def caused(error, cause):
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, "No space left on device", "a/file")


@pytest.mark.parametrize(
    ("error", "kind", "code", "words"),
    [
        (InputError("x"), InputError, 2, "x"),
        (MachineError("x"), MachineError, 3, "x"),
        (BuildError("x"), BuildError, 2, "x"),
        (LostPinError("x"), LostPinError, 1, "x"),
        (CalibratorError("x"), InputError, 2, "x"),
        (ShardError("x"), InputError, 2, "x"),
        (TableError("x"), InputError, 2, "x"),
        (caused(TableError("t.json cannot be written"), FULL), MachineError, 3, "t.json cannot be written"),
        (caused(TableError("x"), PermissionError(errno.EACCES, "no")), InputError, 2, "x"),
        (FULL, MachineError, 3, "a/file: no space left; free some and run again"),
        (OSError(errno.ENOSPC, "full"), MachineError, 3, "the disk: no space left"),
        (OSError(errno.EDQUOT, "quota", "f"), MachineError, 3, "f: no space left"),
        (FileNotFoundError(errno.ENOENT, "No such file", "f"), InputError, 2, "f: No such file; check"),
        (PermissionError(errno.EACCES, "Permission denied", "f"), InputError, 2, "f: Permission denied"),
        (IsADirectoryError(errno.EISDIR, "Is a directory"), InputError, 2, "Is a directory; check"),
        (MemoryError(), MachineError, 3, "out of memory"),
    ],
)
def test_expected_errors(error, kind, code, words):
    known = as_trtbuild_error(error)
    assert type(known) is kind
    assert known.exit_code == code
    assert str(known).startswith(words)
    assert "\n" not in str(known)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        ValueError("x"),
        AssertionError(),
        RuntimeError(),
        OSError("no number"),
        RecursionError(),
    ],
)
def test_everything_else_is_a_bug(error):
    assert as_trtbuild_error(error) is None


def test_the_exit_codes_of_the_contract():
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0,
        "GATE": 1,
        "INPUT": 2,
        "MACHINE": 3,
        "BUG": 70,
        "INTERRUPTED": 130,
    }


def test_every_error_of_ours_has_a_code():
    for kind in TrtbuildError.__subclasses__():
        assert isinstance(kind.exit_code, ExitCode)
        assert kind.exit_code not in (ExitCode.OK, ExitCode.BUG, ExitCode.INTERRUPTED)


@pytest.mark.parametrize(
    ("text", "line"),
    [("a\nb", "a"), ("\n\n  a  \nb", "a"), ("", "ValueError"), (" \n ", "ValueError"), ("a", "a")],
)
def test_one_line(text, line):
    assert one_line(ValueError(text)) == line


def test_a_table_on_a_full_disk_is_the_machines_fault(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TableError) as caught:
        RangeTable({}, None, 0).save(tmp_path / "table.json")
    assert as_trtbuild_error(caught.value).exit_code == 3
    assert list(tmp_path.iterdir()) == []

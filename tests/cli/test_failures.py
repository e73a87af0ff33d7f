"""What fails that is not the user's input: the disk, the machine, trtbuild itself, the user's patience."""

import errno
import json
import os
import re
import shutil
import signal
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from trtbuild import entry, pipeline, tables
from trtbuild.collect import forward
from trtbuild.errors import BuildError, InputError, LostPinError
from trtbuild.golden import check
from trtbuild.targets.simulation import Simulation


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device", "some/file")


def quota(*_, **__):
    raise OSError(errno.EDQUOT, "Disk quota exceeded", "some/file")


def build_half(self, request, path):
    path.write_bytes(b"half a mod")
    full_disk()


def expect_full(run, tree, *arguments):
    before = tree()
    result = run(*arguments)
    assert result.code == 3, result
    assert result.out == ""
    assert len(result.errors) == 1
    assert result.err.splitlines()[-1] == result.errors[0]
    assert re.search("no space left|No space left|quota", result.errors[0])
    assert "Traceback" not in result.err
    as_json = run(*arguments, "--json")
    assert as_json.document["exit_code"] == 3
    assert tree() == before


def test_the_disk_fills_while_the_target_writes(run, toy, tree, monkeypatch):
    run("calibrate", "toy")
    monkeypatch.setattr(Simulation, "build", build_half)
    expect_full(run, tree, "build", "toy")
    expect_full(run, tree, "build", "toy", "-o", "x.onnx")


def test_the_disk_fills_while_a_bare_model_is_built(run, toy, tree, monkeypatch):
    shutil.copy(toy / "model.onnx", "model.onnx")
    monkeypatch.setattr(Simulation, "build", build_half)
    expect_full(run, tree, "build", "model.onnx", "--calib", toy / "shards", "-o", "x.onnx")


@pytest.mark.parametrize("failure", [full_disk, quota])
@pytest.mark.parametrize("command", ["calibrate", "build"])
def test_the_disk_fills_while_ranges_are_written(run, toy, tree, monkeypatch, command, failure):
    (toy / "builds" / "ranges").mkdir(parents=True)
    monkeypatch.setattr(os, "fsync", failure)
    expect_full(run, tree, command, "toy")
    expect_full(run, tree, "calibrate", "toy", "-o", "table.json")


def test_the_disk_fills_while_the_manifest_is_written(run, toy, tree, monkeypatch):
    run("calibrate", "toy")
    monkeypatch.setattr(os, "fsync", full_disk)
    expect_full(run, tree, "build", "toy")


def test_the_disk_fills_while_the_output_is_written(run, toy, tree, monkeypatch):
    run("build", "toy", "-o", "x.onnx")
    monkeypatch.setattr(shutil, "copyfile", full_disk)
    expect_full(run, tree, "build", "toy", "-o", "x.onnx")
    assert "error: x.onnx: no space left" in run("build", "toy", "-o", "x.onnx").errors[0]


def test_the_disk_fills_while_a_cache_is_written(run, toy, monkeypatch):
    run("calibrate", "toy")
    monkeypatch.setattr(os, "fsync", full_disk)
    (failure,) = run("calibrate", "toy").errors
    assert re.search(r"error: engines/toy/builds/ranges/\w+\.json\.cache: no space left", failure)


def test_the_disk_fills_while_the_outputs_manifest_is_written(run, toy, tree, monkeypatch):
    """The output that was there before stays whole: another build's file never meets this one's manifest."""
    run("build", "toy", "-o", "x.onnx")
    run("build", "toy", "--pin", "Conv_c1")
    with monkeypatch.context() as fault:
        fault.setattr(os, "fsync", full_disk)
        expect_full(run, tree, "build", "toy", "--pin", "Conv_c1", "-o", "x.onnx")
    assert run("validate", "x.onnx").code == 0


def test_the_disk_fills_while_the_verdict_is_written(run, toy, tree, monkeypatch):
    run("build", "toy")
    run("validate", "toy")  # the golden's activations are kept, which a full disk does not stop
    (toy / "builds" / run("build", "toy", "--json").document["key"] / "verdict.json").unlink()
    monkeypatch.setattr(os, "fsync", full_disk)
    expect_full(run, tree, "validate", "toy")


def test_out_of_memory(run, toy, tree, monkeypatch):
    def out_of_memory(*_):
        raise MemoryError

    run("build", "toy")
    before = tree()
    monkeypatch.setattr(check, "diff_layers", out_of_memory)
    result = run("validate", "toy")
    assert result.code == 3
    assert "out of memory" in result.errors[0]
    assert tree() == before


@pytest.mark.parametrize(
    ("error", "code"), [(BuildError("the target says no"), 2), (LostPinError("lost"), 1)]
)
def test_a_build_that_is_refused_leaves_nothing(run, toy, tree, monkeypatch, error, code):
    def refuse(self, request, path):
        path.write_text("half")
        raise error

    run("calibrate", "toy")
    before = tree()
    monkeypatch.setattr(Simulation, "build", refuse)
    result = run("build", "toy")
    assert result.code == code
    assert result.errors == [f"error: {error}"]
    assert tree() == before


def test_a_lost_pin_fails_the_build(run, toy, tree, monkeypatch):
    """The target drops the pin on the floor: the audit reads what was built, not what was asked."""
    honest = Simulation.build

    def forgetful(self, request, path):
        nodes = dict(request.precisions.nodes)
        nodes["Conv_c1"] = replace(nodes["Conv_c1"], precision="int8")
        return honest(self, replace(request, precisions=replace(request.precisions, nodes=nodes)), path)

    run("calibrate", "toy")
    before = tree()
    monkeypatch.setattr(Simulation, "build", forgetful)
    result = run("build", "toy", "--pin", "Conv_c1", "-o", "x.onnx")
    assert result.code == 1
    assert "1 pins did not hold" in result.errors[0]
    assert "Conv_c1 (asked fp32, found int8)" in result.errors[0]
    assert tree() == before


def test_a_bug_is_reported_with_its_traceback_in_a_file(run, toy, monkeypatch):
    def divide(*_):
        return 1 / 0

    monkeypatch.setattr(pipeline, "pins", divide)
    result = run("pins", "toy")
    assert (result.code, result.out) == (70, "")
    assert result.err.splitlines() == result.errors
    (report,) = re.findall(
        r"ZeroDivisionError: division by zero\); please report it with (\S+)", result.errors[0]
    )
    text = Path(report).read_text()
    assert "Traceback" in text
    assert "in divide" in text
    as_json = run("pins", "toy", "--json")
    assert as_json.document["exit_code"] == 70
    assert as_json.document["error"].startswith("a bug in trtbuild (ZeroDivisionError")


def test_a_bug_on_a_full_disk_is_still_a_bug(run, toy, monkeypatch):
    monkeypatch.setattr(pipeline, "pins", lambda *_: 1 / 0)
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full_disk)
    result = run("pins", "toy")
    assert result.code == 70
    assert len(result.errors) == 1
    assert "Traceback" in result.err


@pytest.mark.parametrize("error", [KeyboardInterrupt, EOFError])
def test_an_interrupt_says_so(run, toy, monkeypatch, error):
    def stop(*_):
        raise error

    monkeypatch.setattr(pipeline, "pins", stop)
    result = run("pins", "toy", "--json")
    assert result.code == 130
    assert result.errors == ["error: interrupted; nothing was left half-written"]
    assert json.loads(result.out)["exit_code"] == 130


@pytest.mark.usefixtures("control_c")
@pytest.mark.parametrize("then", ["goes on", "fails"])
def test_an_interrupt_that_a_library_swallows(run, toy, tree, monkeypatch, then):
    """As Polygraphy does now and then: its bare `except:` takes our KeyboardInterrupt for a missing torch."""
    honest, done = forward.infer, []

    def swallow(active, feeds, samples):
        done.append(samples)
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        if then == "fails":
            raise InputError("no torch")
        return honest(active, feeds, samples)

    before = tree()
    with monkeypatch.context() as fault:
        fault.setattr(forward, "infer", swallow)
        fault.setattr(tables, "CALIBRATION_BATCH", 1)
        result = run("build", "toy")
    assert result.code == 130
    assert result.errors == ["error: interrupted; nothing was left half-written"]
    assert len(done) == 1
    assert tree() == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run("build", "toy").code == 0  # an interrupt is forgotten with its command


def test_main_exits_with_the_code(toy, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["trtbuild", "pins", "nothing"])
    with pytest.raises(SystemExit) as stop:
        entry.main()
    assert stop.value.code == 2


def test_two_outputs_at_once_do_not_share_a_temporary_file(run, toy, monkeypatch):
    """While one export waits in the middle, another one of the same file runs through."""
    copy, runs = shutil.copyfile, []

    def slow(source, destination):
        copy(source, destination)
        if not runs:
            runs.append(True)
            assert run("build", "toy", "-o", "x.onnx").code == 0

    monkeypatch.setattr(shutil, "copyfile", slow)
    assert run("build", "toy", "-o", "x.onnx").code == 0
    assert run("inspect", "x.onnx").code == 0
    assert run("validate", "x.onnx").code == 0

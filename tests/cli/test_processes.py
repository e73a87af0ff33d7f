"""What can only be seen from outside: signals, pipes, and what a start imports."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

TRTBUILD = [sys.executable, "-m", "trtbuild"]
HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "pydantic", "rich", "polygraphy", "numba")
ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 60  # seconds


@pytest.fixture(autouse=True)
def from_here(monkeypatch):
    """Subprocesses find trtbuild wherever they run."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def start(*arguments, **options):
    return subprocess.Popen([*TRTBUILD, *arguments], text=True, stderr=subprocess.PIPE, **options)


def wait_until(condition, process):
    end = time.monotonic() + DEADLINE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("statement", ["import trtbuild", "import trtbuild.entry", "HELP"])
def test_a_start_imports_nothing_heavy(statement):
    if statement == "HELP":
        statement = "from trtbuild.entry import run; assert run(['--help']) == run(['build', '--help']) == 0"
    code = f"{statement}\nimport sys; print(*(set(sys.modules) & set({HEAVY})), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""


@pytest.fixture
def long_calibration(toy, make_samples):
    """So many small batches that a signal always comes in the middle."""
    np.savez(toy / "shards" / "2.npz", x=make_samples(100_000, 3))
    recipe = toy / "recipe.toml"
    shapes = "[inputs.x]\nmin = [1,3,8,8]\nopt = [1,3,8,8]\nmax = [8,3,8,8]\n"
    recipe.write_text(recipe.read_text() + shapes)
    return toy


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_stopped_during_calibration(long_calibration, tree, sent):
    before = tree()
    line = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
import trtbuild.progress
trtbuild.progress.SECONDS_BETWEEN_LINES = 0
from trtbuild.entry import main
main()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", line, "build", "toy", "--json"],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    for text in process.stderr:
        if text.startswith("calibrating, samples: 20"):
            break
    process.send_signal(sent)
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "error: interrupted; nothing was left half-written"
    assert "Traceback" not in err
    assert '"exit_code": 130' in out
    assert tree() == before


def test_killed_during_a_build(toy):
    """After the target wrote and before the rename: there is no build, and the next is not disturbed."""
    hang = """
import os, time
from pathlib import Path
from trtbuild.ship import store
def hang(path, document):
    Path("reached").touch()
    time.sleep(600)
store.write_json = hang
from trtbuild.entry import main
main()
"""
    process = subprocess.Popen([sys.executable, "-c", hang, "build", "toy"], stderr=subprocess.DEVNULL)
    wait_until(Path("reached").exists, process)
    process.kill()
    process.wait(DEADLINE)
    left = [path for path in (toy / "builds").iterdir() if path.name != "ranges"]
    assert all(path.name.startswith(".unfinished-") for path in left)
    assert any((path / "model.onnx").is_file() for path in left)
    process = start("inspect", "toy")
    assert "no build yet" in process.communicate(timeout=DEADLINE)[1]
    process = start("build", "toy", stdout=subprocess.DEVNULL)
    process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert [p.name for p in (toy / "builds").glob("[!.]*/manifest.json")] == ["manifest.json"]


def test_two_builds_at_once(toy):
    processes = [start("build", "toy", "-o", "x.onnx", stdout=subprocess.DEVNULL) for _ in range(2)]
    for process in processes:
        assert process.communicate(timeout=DEADLINE)[1].count("error:") == 0
        assert process.returncode == 0
    left = {path.name for path in (toy / "builds").iterdir()}
    assert len(left) == 2
    assert "ranges" in left
    assert {path.name for path in Path().iterdir()} == {"engines", "tmp", "x.onnx", "x.onnx.json"}


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_answer_that_nobody_reads_keeps_its_exit_code(toy, run, options):
    assert run("build", "toy").code == 0
    for strict, code in ((), 0), (("--set", "validation.outputs.sqnr_db=300"), 1):
        reader, writer = os.pipe()
        os.close(reader)
        process = start("validate", "toy", *strict, *options, stdout=writer)
        os.close(writer)
        _, err = process.communicate(timeout=DEADLINE)
        assert process.returncode == code
        assert "Traceback" not in err
        assert "BrokenPipe" not in err


def test_progress_that_nobody_reads_is_an_interrupt(toy):
    """Not exit code 1, which would say that the gate failed."""
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [*TRTBUILD, "build", "toy"], stderr=writer, stdout=subprocess.DEVNULL, check=False
    )
    os.close(writer)
    assert process.returncode == 130
    assert not list((toy / "builds").glob("*/manifest.json"))


def test_a_closed_stdout_changes_no_exit_code(toy):
    for command, code in (("pins toy", 0), ("pins nope", 2)):
        done = subprocess.run(["sh", "-c", f"{sys.executable} -m trtbuild {command} >&-"], check=False)
        assert done.returncode == code


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_full_disk_behind_stdout(toy, options):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*TRTBUILD, "pins", "toy", *options], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 3
    assert "error: the disk: no space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_that_the_terminal_cannot_show(toy, monkeypatch):
    toy.rename("engines/töy [bold]")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = subprocess.run([*TRTBUILD, "pins", "töy [bold]"], capture_output=True, text=True, check=True)
    assert "t\\xf6y [bold]" in done.stdout

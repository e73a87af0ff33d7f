"""Progress goes to stderr, counts what was done, and lets nothing get lost."""

import os
import signal
import sys

import pytest

from trtbuild import progress


@pytest.fixture(params=["log", "terminal"])
def err(request, monkeypatch, capsys):
    """What has come to stderr since the last look."""
    if request.param == "terminal":
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    return lambda: capsys.readouterr().err


def words(items):
    return progress.track(items, "reading, letters", 6, len)


def test_every_item_comes_through_and_is_counted(err):
    assert list(words(iter(["ab", "c", "def"]))) == ["ab", "c", "def"]
    assert err().endswith("reading, letters: 6\n")


def test_nothing_on_stdout(err, capsys):
    list(words(["ab"]))
    progress.say("building")
    assert capsys.readouterr().out == ""


def test_what_was_really_done_is_said(err):
    assert list(words(iter(["ab"]))) == ["ab"]
    assert err().endswith("reading, letters: 2\n")


def test_nothing_to_do(err):
    assert list(words([])) == []
    assert err().endswith("reading, letters: 0\n")


def test_items_are_taken_one_at_a_time(err):
    taken = []

    def source():
        for item in ("a", "b"):
            taken.append(item)
            yield item

    tracked = words(source())
    assert next(tracked) == "a"
    assert taken == ["a"]


def test_an_error_of_the_source_comes_through(err):
    def source():
        yield "a"
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(words(source()))
    assert "letters: 6" not in err()


def test_a_stop_is_heard_between_two_items(err):
    tracked = words(["a", "b"])
    assert next(tracked) == "a"
    progress.STOP.set()
    try:
        with pytest.raises(KeyboardInterrupt):
            next(tracked)
    finally:
        progress.STOP.clear()
    assert list(words(["a"])) == ["a"]


def test_a_log_gets_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    list(words(["ab", "c", "def"]))
    assert capsys.readouterr().err.splitlines() == [
        "reading, letters: 0 of 6",
        "reading, letters: 2 of 6",
        "reading, letters: 3 of 6",
        "reading, letters: 6",
    ]
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 3600.0)
    list(words(["ab", "c", "def"]))
    assert capsys.readouterr().err == "reading, letters: 6\n"


def test_say(capsys):
    progress.say("building")
    assert capsys.readouterr() == ("", "building\n")


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def handler():
    """Python's own handler, whatever pytest was started with; STOP as it was."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)
    progress.STOP.clear()


def test_an_interrupt_waits_until_the_library_lets_go(handler, capsys):
    seen = []

    def library():
        with progress.interrupts_kept():
            interrupt()
            seen.append(progress.STOP.is_set())
            interrupt()
            seen.append("still here")

    with pytest.raises(KeyboardInterrupt):
        library()
    assert seen == [True, "still here"]
    assert capsys.readouterr().err.count("stopping as soon as the builder lets go") == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not progress.STOP.is_set(), "a notebook goes on"


def test_under_the_cli_the_interrupt_stays_known(handler):
    def of_the_cli(*_):
        raise AssertionError("not inside")

    signal.signal(signal.SIGINT, of_the_cli)
    with pytest.raises(KeyboardInterrupt), progress.interrupts_kept():
        interrupt()
    assert progress.STOP.is_set()
    assert signal.getsignal(signal.SIGINT) is of_the_cli


def test_without_an_interrupt_nothing_happens(handler):
    with progress.interrupts_kept():
        pass
    with pytest.raises(ValueError, match="broken"), progress.interrupts_kept():
        raise ValueError("broken")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_interrupt_stays_ignored(handler):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with progress.interrupts_kept():
        interrupt()
    assert not progress.STOP.is_set()


def test_phases_in_a_log(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    with progress.Phases() as phases:
        phases.start("building", 3)
        phases.step("building", 2)
        phases.finish("building")
    assert capsys.readouterr().err == "building: step 2\n"


def test_phases_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress.Phases() as phases:
        phases.start("building", 3)
        phases.step("building", 2)
        phases.step("never started", 1)
        phases.finish("building")
        phases.finish("building")
    assert "step" not in capsys.readouterr().err

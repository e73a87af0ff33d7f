"""Progress goes to stderr, counts what was done, and lets nothing get lost."""

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

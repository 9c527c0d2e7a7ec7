import io

import pytest

from flatbit.progress import bar, be_quiet, is_quiet, is_watched, track


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def watch(monkeypatch):
    """Make standard error a terminal; called in the test, for pytest puts its own there after the fixtures."""

    def start():
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        return terminal

    return start


def test_track_yields_every_item_in_order():
    assert list(track(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert list(track((c for c in "abc"), "counting", total=3)) == ["a", "b", "c"]


def test_track_takes_no_more_than_it_is_asked_for():
    source = iter(range(10))
    tracked = track(source, "counting")
    assert [next(tracked), next(tracked)] == [0, 1]
    assert next(source) == 2


def test_silent_where_nobody_watches(capsys):
    list(track(range(5), "counting"))
    with bar("loss") as shown:
        shown.advance(shown.add_task("work", total=1, loss="0.1"))
    assert capsys.readouterr() == ("", "")


def test_shows_on_standard_error_where_somebody_watches(watch, capsys):
    terminal = watch()
    list(track(range(5), "counting"))
    assert "counting" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_extra_fields_are_shown(watch):
    terminal = watch()
    with bar("loss") as shown:
        shown.add_task("work", total=1, loss="loss 0.125")
    assert "loss 0.125" in terminal.getvalue()


def test_an_error_inside_comes_through():
    def broken():
        yield 1
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        list(track(broken(), "counting"))


def test_quiet_is_silent_on_a_terminal_too(watch):
    terminal = watch()
    assert is_watched()
    be_quiet()
    try:
        list(track(range(5), "counting"))
        assert (is_quiet(), is_watched(), terminal.getvalue()) == (True, False, "")
    finally:
        be_quiet(False)
    assert is_watched()

from __future__ import annotations

import sys
import threading

import pytest

from phift.quiet import quiet_sdk


def write_from(name: str, text: str) -> None:
    """Write a line to both streams from a thread of this name."""

    def work() -> None:
        sys.stdout.write(text + "\n")
        sys.stderr.write(text + "\n")

    thread = threading.Thread(target=work, name=name)
    thread.start()
    thread.join()


def test_poller_threads_print_no_dots(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet_sdk():
        write_from("LROPoller(1)", ".")
        write_from("Thread-1", "a line")
        sys.stdout.write("here\n")
    assert capsys.readouterr().out == "a line\nhere\n"


def test_blank_lines_after_an_upload_are_kept_back(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet_sdk():
        sys.stderr.write("\n")
        sys.stderr.write("\x1b[39m")
        sys.stderr.write("a warning\n")
        write_from("Thread-1", "")
    assert capsys.readouterr().err == "a warning\n\n"


def test_the_ends_of_printed_lines_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet_sdk():
        print("one", file=sys.stderr)  # noqa: T201 - print writes the line's end by itself
        print("two", file=sys.stderr)  # noqa: T201 - as above
    assert capsys.readouterr().err == "one\ntwo\n"


def test_a_dot_in_the_middle_of_a_line_is_kept_back_too(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet_sdk():
        sys.stdout.write("asking ")
        write_from("LROPoller(1)", ".")
        sys.stdout.write("done\n")
    assert capsys.readouterr().out == "asking done\n"


def test_a_stream_stays_a_stream_inside_and_is_restored(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with quiet_sdk():
        sys.stdout.flush()
        assert sys.stdout.encoding == before[0].encoding
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ("", "")


def test_two_threads_at_once_leave_the_streams_as_they_were() -> None:
    before = sys.stdout, sys.stderr
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with quiet_sdk():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=stay)
    with quiet_sdk():
        thread.start()
        inside.wait(10)
    assert (sys.stdout, sys.stderr) != before
    leave.set()
    thread.join()
    assert (sys.stdout, sys.stderr) == before

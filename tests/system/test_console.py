"""What stands where: lines on stdout, warnings on stderr, everything in the log."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from app_runs import environment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sicnn_app.system import console as console_module
from sicnn_app.system.console import Console, LogFile

PRINTABLE = st.text(st.characters(blacklist_categories=("C", "Z")) | st.just(" "), max_size=60).map(str.strip)
"""Text without control characters and line breaks, as paths and messages have it."""


def script(code: str) -> list[str]:
    start = "from sicnn_app.system.streams import outlive_streams\noutlive_streams()\n"
    return [sys.executable, "-c", f"{start}from sicnn_app.system.console import Console\n{code}"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PRINTABLE)
def test_a_line_is_printed_as_it_is(capsys, text):
    capsys.readouterr()
    Console().line(text)
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"{text}\n", "")


@pytest.mark.parametrize("text", ["[red]/data[/red]", "a:bug:b/:x:", "1 [/] 2 \\", "[link=x]"])
def test_nothing_in_a_path_is_taken_for_markup(capsys, text):
    console = Console()
    console.line(text)
    console.warning(text)
    console.error(text, ValueError())
    console.table("t", ("column",), [(text,)])
    said = capsys.readouterr()
    assert said.out.startswith(f"{text}\n")
    assert said.out.count(text) == 2
    assert said.err == f"warning: {text}\nerror: {text}\n"


def test_a_long_line_stays_one_line(capsys):
    Console().warning("word " * 200 + "end")
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("verbosity", "shown"), [(0, False), (1, True), (2, True)])
def test_details_show_on_request(capsys, verbosity, shown):
    console = Console(verbosity)
    console.detail("detail")
    with console.progress("sub-01") as progress:
        progress("training", 3, 12)
    out = capsys.readouterr().out
    assert (out == "detail\nsub-01: training (3 of at most 12)\n") if shown else (out == "")


def test_what_begins_is_a_line_of_its_own(capsys):
    with Console().progress("sub-01") as progress:
        progress("resumed after 12 epochs", 0, 1)
    assert capsys.readouterr().out == "sub-01: resumed after 12 epochs\n"


def test_a_stage_says_how_long_everything_still_takes(capsys):
    with Console().progress("sub-01 (run 1 of 2)", lambda: "about 3 min left") as progress:
        progress("denoising", 0, 1)
    assert capsys.readouterr().out == "sub-01 (run 1 of 2): denoising, about 3 min left\n"


def test_a_stage_that_goes_on_without_a_word_is_told_again(monkeypatch, capsys):
    beats, may_go_on = [], threading.Event()

    def left() -> str:
        beats.append(None)
        if len(beats) > 2:
            may_go_on.set()
        return ""

    monkeypatch.setattr(console_module, "HEARTBEAT", 0.01)
    with Console().progress("sub-01", left) as progress:
        progress("training", 0, 1)
        progress("epoch", 7, 20)
        assert may_go_on.wait(10)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "sub-01: training"
    assert len(lines) > 1
    assert set(lines[1:]) <= {
        "sub-01: still at training, for 10 s",
        "sub-01: still at training, for 10 s, epoch (7 of at most 20)",
    }
    time.sleep(0.05)
    assert len(capsys.readouterr().out.splitlines()) <= 1, "the one that was being said"


@pytest.mark.parametrize(("verbosity", "shown"), [(0, False), (1, False), (2, True)])
def test_a_traceback_shows_from_vv_and_always_stands_in_the_log(tmp_path, capsys, verbosity, shown):
    console = Console(verbosity)
    with console.log_to(LogFile(tmp_path / "log")):
        try:
            raise ValueError("inner reason")
        except ValueError as error:
            console.error("sub-01: failed", error)
    said = capsys.readouterr()
    assert said.err.endswith("error: sub-01: failed\n")
    assert ("Traceback" in said.err) == shown
    log = (tmp_path / "log").read_text()
    assert "Traceback" in log
    assert "inner reason" in log


CODES = "\x1b[2J\u202e\r\x9b\ud800\n2026-01-01 INFO all is well"
SHOWN = "\\x1b[2J\\u202e\\r\\x9b\\ud800\\n2026-01-01 INFO all is well"


def test_nothing_said_commands_the_terminal_or_passes_for_a_line_of_its_own(tmp_path, capsys):
    console = Console(2)
    with console.log_to(LogFile(tmp_path / "log")):
        for say in (console.note, console.line, console.detail, console.warning):
            say(CODES)
        try:
            raise ValueError(CODES)
        except ValueError as error:
            console.error(CODES, error)
        with console.progress(CODES) as progress:
            progress(CODES, 0, 1)
            progress(CODES, 1, 1)
        console.table(CODES, ("column",), [(CODES,)])
    said = capsys.readouterr()
    log = (tmp_path / "log").read_text()
    for text in (said.out, said.err, log):
        assert set(text) <= {"\n", *map(chr, range(32, 127)), *"┏━┓┃┡┩│└─┘"}
        assert SHOWN in text
    assert not [line for line in (said.out + log).splitlines() if line.startswith("2026-01-01")]


def test_the_log_begins_with_what_was_said_before_it_was_there(tmp_path, capsys):
    console = Console()
    console.warning("early %s")
    with console.log_to(LogFile(tmp_path / "log")):
        console.line("inside")
        console.note("for the log only")
        console.detail("hidden")
    console.line("late")
    words = [line.split(maxsplit=2)[2] for line in (tmp_path / "log").read_text().splitlines()]
    assert words == ["WARNING early %s", "INFO inside", "INFO for the log only", "INFO hidden"]
    said = capsys.readouterr()
    assert said.out == "inside\nlate\n"
    assert said.err == "warning: early %s\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_disk_that_is_full_costs_the_log_and_nothing_else(capsys):
    console = Console()
    with console.log_to(LogFile(Path("/dev/full"), mode="a")):
        console.line("said")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("said\n", "")


def test_work_goes_on_when_the_reader_of_a_pipe_leaves(tmp_path):
    code = "c = Console()\nfor n in range(20000): c.line('x' * 50)\nopen('done', 'w')"
    process = subprocess.Popen(
        script(code), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), cwd=tmp_path
    )
    process.stdout.read(10)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait() == 0
    assert err == b""
    assert (tmp_path / "done").exists()


def test_letters_that_the_locale_lacks_do_not_stop_anything():
    done = subprocess.run(
        script("Console().line('Bäuche')"),
        capture_output=True,
        text=True,
        env=environment(PYTHONIOENCODING="ascii"),
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "B\\xe4uche\n", "")

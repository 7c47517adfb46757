"""Saying never costs doing: terminals that go away, full disks, closed descriptors, texts with commands."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import termios

import pytest
from app_processes import NO_FIGURES, RUNNER
from app_runs import QUICK, App, command, dataset, environment

from sicnn_app.cli.main import main
from sicnn_app.cli.simulate import main as simulate

SPEAKER = "from sicnn_app.system.streams import outlive_streams\noutlive_streams()\n"
LONG = "import sys\nfor n in range(20000): print('x' * 50); print('y' * 50, file=sys.stderr)\n"
CODES = "\x1b]0;title\x07\x1b[2J\u202e\n2026-01-01 INFO runs: 9 written"
SHOWN = "\\x1b]0;title\\x07\\x1b[2J\\u202e\\n2026-01-01 INFO runs: 9 written"


def shell(words: list[str], redirections: str, **options) -> subprocess.CompletedProcess:
    """Run a command with its streams led elsewhere, and leave no stream to the tests but what remains."""
    return subprocess.run(
        ["bash", "-c", f"{shlex.join(words)} {redirections}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        # What is written at once, and not at the end, fails elsewhere.
        env=environment(PYTHONUNBUFFERED=None),
        **options,
    )


def runner() -> list[str]:
    return [sys.executable, "-c", RUNNER.format(prelude=NO_FIGURES)]


@pytest.mark.parametrize(
    "redirections",
    [">/dev/full 2>&1", ">&- 2>&-", "<&- >&- 2>&-", "1</dev/null 2<&1", "> >(exit) 2> >(exit)"],
)
def test_a_program_goes_on_when_nobody_can_hear_it(tmp_path, redirections):
    code = f"{SPEAKER}{LONG}open('done', 'w').write(str(sys.stdout is None))"
    done = shell([sys.executable, "-c", code], redirections, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("words", [["-m", "sicnn_app"], ["-m", "sicnn_app.cli.simulate"]])
@pytest.mark.parametrize("word", ["--help", "--version"])
@pytest.mark.parametrize("redirections", [">/dev/full", "> >(exit)"])
def test_help_that_nobody_reads_is_no_error(words, word, redirections):
    done = shell([sys.executable, *words, word], redirections)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("redirections", ["2>/dev/full", "2>&-"])
def test_an_error_that_nobody_hears_keeps_its_code(redirections):
    assert shell(command("--nonsense", "-vv"), redirections).returncode == 64


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    code = f"{SPEAKER}import os\nopen('numbers', 'w').write(str(os.open('a', os.O_CREAT) > 2))"
    shell([sys.executable, "-c", code], "<&- >&- 2>&-", cwd=tmp_path)
    assert (tmp_path / "numbers").read_text() == "True"


def test_a_pipe_that_does_not_wait_gets_every_line():
    read, write = os.pipe()
    os.set_blocking(write, False)
    lines = 20_000
    process = subprocess.Popen(
        [sys.executable, "-c", f"{SPEAKER}for n in range({lines}): print('x' * 50)"],
        stdout=write,
        env=environment(),
    )
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        assert stream.read().count(b"\n") == lines
    assert process.wait() == 0


def test_a_terminal_that_goes_away_costs_no_map(tmp_path):
    made, out = dataset(tmp_path / "bids"), tmp_path / "out"
    master, slave = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    process = subprocess.Popen(
        [*runner(), str(made.root), str(out), "participant", *QUICK, "-v"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment(TERM="xterm"),
        preexec_fn=take_terminal,
    )
    os.close(slave)
    said = b""
    while b"lsq on" not in said:
        assert select.select([master], [], [], 240)[0]
        said += os.read(master, 1000)
    os.close(master)
    assert process.wait(timeout=240) == 0
    assert (out / "sub-01.html").exists() or list(out.glob("sub-01/dwi/*param-f_dwimap.nii.gz"))
    (log,) = (out / "logs").iterdir()
    assert "runs: 1 written" in log.read_text()


@pytest.mark.parametrize("redirections", ["<&- >&- 2>&-", ">/dev/full 2>&1"])
def test_maps_are_written_when_nobody_can_hear_of_them(tmp_path, redirections):
    made, out = dataset(tmp_path / "bids"), tmp_path / "out"
    done = shell([*runner(), str(made.root), str(out), "participant", *QUICK, "-vv"], redirections)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(out.glob("sub-01/dwi/*param-f_dwimap.nii.gz"))


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_a_place_that_takes_no_log_costs_no_map(tmp_path, capsys, kind):
    made, out = dataset(tmp_path / "bids"), tmp_path / "out"
    out.mkdir()
    logs = out / "logs"
    logs.write_text("mine") if kind == "file" else logs.symlink_to("nowhere/at/all")
    call = App(capsys).quick(made, out)
    assert call.code == 0, call.text
    assert f"warning: {logs}: no log can be written there" in call.err
    assert "log: /dev/null" in call.out
    assert logs.is_symlink() or logs.read_text() == "mine"


# What a text commands


def test_no_path_commands_the_terminal_or_passes_for_a_line_of_its_own(tmp_path, capsys):
    (tmp_path / CODES).write_text("no folder")
    assert main([str(tmp_path / "none" / CODES), "out", "participant", "-vv"]) == 66
    assert simulate([str(tmp_path / CODES), "--preset", "brain", "-vv"]) != 0
    said = capsys.readouterr().err
    assert said.count(f"/{SHOWN}") >= 2
    assert not {"\x1b", "\x07", "\u202e"} & set(said)


def test_neither_sidecars_nor_names_command_the_terminal_or_the_log(tmp_path, capsys):
    made, out = dataset(tmp_path / "bids"), tmp_path / f"out{CODES}"
    sidecar = next(made.root.rglob("*_dwi.nii.gz")).with_name("sub-01_dwi.json")
    sidecar.write_text(json.dumps({"BodyPartExamined": CODES}))
    call = App(capsys).quick(made, out, "-v")
    assert call.code == 0, call.text
    (log,) = (out / "logs").iterdir()
    for text in (call.text, log.read_text()):
        assert f"report: {tmp_path}/out{SHOWN}/sub-01.html" in text
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
        assert not [line for line in text.splitlines() if line.startswith("2026-01-01")]


def test_version_and_help_come_without_a_library_for_terminals():
    code = "import sys\nfrom sicnn_app.cli import main\nprint(sorted({'rich', 'jinja2'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert done.stdout == "[]\n"

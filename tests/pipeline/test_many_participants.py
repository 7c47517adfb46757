"""Participants as tasks: the same as one after the other, whatever dies, stops or fails meanwhile."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import MagicMock

import distributed
import psutil
import pytest
from app_processes import (
    NO_FIGURES,
    SLOWLY,
    TIMEOUT,
    derivatives,
    finish,
    kill,
    remains,
    results,
    run,
    started,
    wait_until,
)
from app_runs import (
    BVALS,
    QUICK,
    TINY_TRAINING,
    TWO_ITERATIONS,
    App,
    add_run,
    dataset,
    environment,
    execute,
    leave_out_figures,
)
from hypothesis import given
from hypothesis import strategies as st
from validator import validator_errors

import sicnn_app
from sicnn_app.errors import DataError, DeviceError, UsageError
from sicnn_app.ivim.run import DwiRun
from sicnn_app.pipeline.study.groups import Study
from sicnn_app.pipeline.tasks import dask_workers as cluster
from sicnn_app.pipeline.tasks.dask_workers import dask_workers, run_on_worker
from sicnn_app.pipeline.tasks.part import Part
from sicnn_app.pipeline.tasks.processes import CHILD, ChildKilledError, process_here, run_in_child
from sicnn_app.settings import ResourceSettings, Settings
from sicnn_app.system.locks.folders import MADE_FILE

NAMES = ("sub-01", "sub-02")

ONLY_CHILDREN = """
import sys
if {child!r} in sys.orig_argv:
{prelude}
"""
"""``sitecustomize``, which Python runs first of all, for the processes of participants alone."""

DIE = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"

TELL_DEVICE = """
import os
from pathlib import Path
Path({folder!r}, os.environ["CUDA_VISIBLE_DEVICES"]).touch()
os.write(2, b"no more than that")
os._exit(3)
"""

ONE_AHEAD = "from sicnn_app.pipeline.tasks import dask_workers; dask_workers.AHEAD = 1"
"""Prelude: the scheduler knows one participant at a time."""

TELL_IMPORTS = """
import atexit
atexit.register(lambda: print("imported:", "distributed" in sys.modules))
"""

pytestmark = pytest.mark.usefixtures("signals_as_in_a_terminal")


@pytest.fixture
def app(capsys):
    return App(capsys)


@pytest.fixture
def made(tmp_path):
    return dataset(tmp_path / "bids", *NAMES)


@contextmanager
def children_with(folder: Path, prelude: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Context in which the processes of participants begin with a prelude."""
    folder.mkdir()
    text = ONLY_CHILDREN.format(child=CHILD, prelude=textwrap.indent(prelude, "    "))
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), environment()["PYTHONPATH"]]))
        yield


def call(made, out: Path, *options: str) -> tuple:
    return (made.root, out, "participant", *options)


def without_peaks(out: Path) -> dict[str, bytes]:
    """All files but the tables that tell how much memory a process took."""
    return {name: text for name, text in derivatives(out).items() if not name.endswith("_desc-ivim_qc.tsv")}


def children_of(process: subprocess.Popen) -> list[psutil.Process]:
    """Processes of participants below a process, which are forks of one that serves them."""
    below = psutil.Process(process.pid).children(recursive=True)
    return [child for child in below if CHILD in child.cmdline() and CHILD in child.parent().cmdline()]


def part_of(*subjects: str, **changes) -> Part:
    runs = tuple(DwiRun({"sub": subject}, ()) for subject in subjects)
    names = {item.name: item.name.upper() for item in runs}
    settings = Settings(Path("/bids"), Path("/out"))
    return Part(**{"settings": settings, "study": Study(), "runs": runs, "fingerprints": names,
                   "finished": frozenset(), "problems": {}} | changes)  # fmt: skip


def test_good_and_bad_participants_end_as_they_do_one_after_the_other(tmp_path, made, monkeypatch):
    add_run(made, "sub-03", bvals=BVALS[:-1])
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    one, many = tmp_path / "one", tmp_path / "many"
    with started(*call(made, one, *QUICK), prelude=NO_FIGURES + TELL_IMPORTS) as process:
        serial = finish(process)
    with children_with(tmp_path / "site", NO_FIGURES, monkeypatch):
        tasks = execute(*call(made, many, *QUICK, "--nprocs", "2"), env=environment(HOME=str(home)), cwd=here)
    assert (serial.code, tasks.code) == (1, 1), tasks.text
    assert "imported: False" in serial.out
    (reason,) = (line for line in serial.out.splitlines() if line.startswith("failed: sub-03"))
    assert reason in tasks.out.splitlines()
    assert "runs: 2 written, 0 skipped, 1 failed" in tasks.out
    assert "error: sub-03: " in tasks.err
    assert "(3 of 3 participants)" in tasks.out
    assert re.search(r"\(1 of 3 participants, about \d+ (s|min) left\)", tasks.out)
    assert without_peaks(many) == without_peaks(one)
    assert len(list((many / "logs").iterdir())) == 1 + 3
    assert remains(many) == []
    assert not home.exists()
    assert list(here.iterdir()) == []
    assert validator_errors(many) == set()


def test_finished_participants_start_no_process(tmp_path, made, app, monkeypatch):
    out = tmp_path / "out"
    leave_out_figures(monkeypatch)
    assert app.quick(made, out).code == 0
    with children_with(tmp_path / "site", DIE, monkeypatch):
        again = app.quick(made, out, "--nprocs", "2")
    assert again.code == 0, again.text
    assert again.out.count("skipped, finished before") == len(NAMES)


def test_a_participant_whose_process_is_killed_every_time_is_to_be_tried_again(
    tmp_path, made, app, monkeypatch
):
    with children_with(tmp_path / "site", DIE, monkeypatch):
        done = app.quick(made, tmp_path / "out", "--nprocs", "2")
    assert done.code == 75
    for name in NAMES:
        assert f"failed: {name}: its process was killed 3 times, by SIGKILL" in done.out


def test_outputs_of_other_settings_are_refused_before_anything_starts(tmp_path, made, app, monkeypatch):
    out = tmp_path / "out"
    assert app.quick(made, out, "--participant-label", "02").code == 0
    with children_with(tmp_path / "site", DIE, monkeypatch):
        refused = app.quick(made, out, "--nprocs", "2", "--max-bval", "500")
    assert refused.code == 64
    assert "other settings" in refused.err
    assert not (out / "sub-01").exists()


def test_a_dry_run_says_the_same_and_starts_nothing(tmp_path, made, app):
    out = tmp_path / "out"
    plain, tasks = (app.quick(made, out, "--dry-run", *more) for more in ((), ("--nprocs", "2")))
    assert (plain.code, tasks) == (0, plain)
    assert not out.exists()


def test_workers_take_the_devices_in_turn(tmp_path, monkeypatch):
    seen = tmp_path / "seen"
    seen.mkdir()
    prelude = TELL_DEVICE.format(folder=str(seen))
    parts = part_of("1", "2", "3", "4").by_participant()
    with children_with(tmp_path / "site", prelude, monkeypatch):
        found = list(process_here(parts, at_a_time=2, devices=("3", "GPU-f00", "9")))
    assert {path.name for path in seen.iterdir()} == {"3", "GPU-f00"}
    assert sorted(part.runs[0].subject for part, _ in found) == ["1", "2", "3", "4"]
    assert {result.error.exit_code for _, result in found} == {70}
    assert all("ended with 3: no more than that" in str(result.error) for _, result in found)


def test_processes_of_this_machine_need_no_dask_and_listen_to_nobody(tmp_path, made, app, monkeypatch):
    leave_out_figures(monkeypatch)
    monkeypatch.setitem(sys.modules, "distributed", None)
    before = {item.fd for item in psutil.Process().net_connections()}
    assert app(made, tmp_path / "out", *QUICK, "--nprocs", "2").code == 0
    opened = [item for item in psutil.Process().net_connections() if item.fd not in before]
    assert not [item for item in opened if item.status == "LISTEN"]


def test_a_scheduler_without_dask_is_told_how_to_get_it(tmp_path, made, app, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    called = app(made, tmp_path / "out", *QUICK, "--dask-scheduler", "tcp://127.0.0.1:9")
    assert called.code == 64 and "pip install 'sicnn-app[dask]'" in called.err


@pytest.mark.parametrize(
    ("address", "kind"), [("tcp://127.0.0.1:9", DeviceError), ("nothing at all", UsageError)]
)
def test_a_scheduler_that_is_not_there_is_named(monkeypatch, address, kind):
    monkeypatch.setattr(cluster, "TIMEOUT", 0.5)
    with pytest.raises(kind, match=f"--dask-scheduler: .*{address}"), dask_workers(address, MagicMock()):
        pass


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-Somebody_else\r\n" * 40])
def test_what_answers_like_no_scheduler_is_given_up(monkeypatch, answer):
    monkeypatch.setattr(cluster, "TIMEOUT", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = []

        def take() -> None:
            with suppress(OSError):
                while True:
                    taken.append(listener.accept()[0])
                    taken[-1].sendall(answer)

        threading.Thread(target=take, daemon=True).start()
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(DeviceError, match=f"no scheduler answers at {address}"):
            dask_workers(address, MagicMock()).__enter__()


@pytest.mark.parametrize(
    ("found", "says"),
    [("0.4.0", "tcp://w has version 0.4.0"), (ModuleNotFoundError("a"), "has no sicnn-app")],
)
def test_a_cluster_with_another_app_is_refused_before_it_gets_a_task(monkeypatch, found, says):
    client = MagicMock()
    client.run.return_value = {"tcp://w": found}
    client.run_on_scheduler.return_value = sicnn_app.__version__
    monkeypatch.setattr(distributed, "Client", lambda *_, **__: client)
    with pytest.raises(UsageError, match=says), dask_workers("tcp://s:1", MagicMock()):
        pass
    assert not client.submit.called


def test_a_process_that_somebody_else_stops_counts_as_killed(tmp_path, monkeypatch):
    prelude = "from sicnn_app.pipeline import participant_level\nfrom sicnn_app.cli.main import Stopped\n"
    prelude += "def stop(*_): raise Stopped(15)\nparticipant_level.process_part = stop"
    with (
        children_with(tmp_path / "site", prelude, monkeypatch),
        pytest.raises(ChildKilledError, match="SIGTERM"),
    ):
        run_in_child(part_of("1"), call="a")


def test_a_worker_of_another_version_refuses():
    with pytest.raises(UsageError, match="a worker has version"):
        run_on_worker(part_of("1"), call="", version="0.0.1")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("123")), unique=True), st.data())
def test_participants_share_out_all_that_is_known(names, data):
    runs = tuple(DwiRun({"sub": subject, "ses": session}, ()) for subject, session in sorted(names))
    some = st.sets(st.sampled_from([item.name for item in runs])) if runs else st.just(set())
    finished, bad = (data.draw(some) for _ in range(2))
    part = part_of(
        runs=runs,
        fingerprints={item.name: item.name for item in runs},
        finished=frozenset(finished),
        problems={name: DataError(name) for name in bad},
    )
    parts = pickle.loads(pickle.dumps(part)).by_participant()
    assert [item for one in parts for item in one.runs] == list(runs)
    assert all(len({item.subject for item in one.runs}) == 1 for one in parts)
    for one in parts:
        own = {item.name for item in one.runs}
        assert set(one.fingerprints) == own
        assert one.finished == finished & own
        assert {name: str(error) for name, error in one.problems.items()} == {
            name: name for name in bad & own
        }


def test_memory_is_shared_out_by_the_participants_at_a_time():
    one = ResourceSettings(mem=6.5, nprocs=3).of_one_task(taken=0.5)
    assert (one.mem, one.nprocs) == (2.0, 1) and one.mem_from == "the share of one of 3 participants in --mem"
    assert 0 < ResourceSettings(mem=0.3, nprocs=2).of_one_task(taken=0.5).mem < 0.001
    assert ResourceSettings(mem=6.0, dask_scheduler="a").of_one_task() == ResourceSettings(mem=6.0)


def test_a_written_path_means_what_the_system_makes_of_it(tmp_path, monkeypatch):
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "b" / "c")
    monkeypatch.chdir(tmp_path / "a")
    given = Settings(
        Path("bids"), Path("link/../out"), resources=ResourceSettings(work_dir=Path("link/../w"))
    )
    absolute = given.with_absolute_paths()
    for path in (absolute.output_dir, absolute.work_dir):
        assert path.is_absolute()
        path.mkdir()
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["c", "out", "w"]


@pytest.mark.parametrize(
    ("options", "part"),
    [({"nprocs": 0}, "--nprocs"), ({"nprocs": 2, "dask_scheduler": "tcp://a:1"}, "--dask-scheduler")],
)
def test_contradictory_resources_are_refused(options, part):
    with pytest.raises(UsageError, match=part):
        ResourceSettings(**options)


def train(*options: str) -> tuple[str, ...]:
    return (*TINY_TRAINING, *TWO_ITERATIONS, *options)


def lock_of(out: Path, name: str) -> int | None:
    """Number of the process that works on a run, once its training has been saved."""
    for folder in out.glob(f".work/run-{name}-*"):
        if (folder / "training.pt").exists():
            with suppress(OSError, ValueError):
                return json.loads((folder / "lock").read_text())["pid"]
    return None


@pytest.fixture
def whole(tmp_path, made):
    """Results of a call without anything special."""
    with started(*call(made, tmp_path / "whole", *train()), prelude=SLOWLY + NO_FIGURES) as process:
        assert finish(process).code == 0
    return results(tmp_path / "whole")


@pytest.fixture
def slow_children(tmp_path, monkeypatch):
    with children_with(tmp_path / "site", SLOWLY + NO_FIGURES, monkeypatch):
        yield


def check_goes_on(made, out: Path, whole: dict[str, bytes]) -> None:
    with started(*call(made, out, *train("--nprocs", "2"))) as process:
        again = finish(process)
    assert again.code == 0, again.text
    assert results(out) == whole
    assert remains(out) == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_stops_all_participants_after_their_checkpoints(
    tmp_path, made, whole, slow_children, number, code
):
    out = tmp_path / "out"
    with started(*call(made, out, *train("--nprocs", "2"))) as process:
        wait_until(lambda: all(lock_of(out, name) for name in NAMES), process)
        children = children_of(process)
        process.send_signal(number)
        stopped = finish(process)
    assert stopped.code == code, stopped.text
    assert len(children) == len(NAMES)
    assert not any(child.is_running() for child in children)
    assert {path.name for path in out.glob(".work/*/*")} == {"training.pt", MADE_FILE}
    assert len(list(out.glob(".work/*"))) == len(NAMES)
    check_goes_on(made, out, whole)
    assert sum("resumed after" in path.read_text() for path in (out / "logs").iterdir()) == len(NAMES)


@pytest.mark.slow
def test_participants_end_with_an_app_that_is_killed(tmp_path, made, whole, slow_children):
    out = tmp_path / "out"
    with started(*call(made, out, *train("--nprocs", "2"))) as process:
        wait_until(lambda: all(lock_of(out, name) for name in NAMES), process)
        children = children_of(process)
        kill(process)
    _, alive = psutil.wait_procs(children, timeout=TIMEOUT)
    assert not alive
    check_goes_on(made, out, whole)


@pytest.mark.slow
def test_a_participant_whose_process_is_killed_goes_on_in_another(tmp_path, made, whole, slow_children):
    out = tmp_path / "out"
    with started(*call(made, out, *train("--nprocs", "2"))) as process:
        wait_until(lambda: lock_of(out, "sub-02"), process)
        os.kill(lock_of(out, "sub-02"), signal.SIGKILL)
        done = finish(process)
    assert done.code == 0, done.text
    assert results(out) == whole
    assert remains(out) == []


@pytest.mark.slow
def test_participants_go_on_without_the_process_that_they_were_forks_of(tmp_path, made, whole, slow_children):
    out = tmp_path / "out"
    with started(*call(made, out, *train("--nprocs", "2"))) as process:
        wait_until(lambda: lock_of(out, "sub-02"), process)
        server = psutil.Process(lock_of(out, "sub-02")).parent()
        assert server.ppid() == process.pid
        server.kill()
        done = finish(process)
    assert done.code == 0, done.text
    assert results(out) == whole
    assert remains(out) == []


@contextmanager
def dask_processes(
    folder: Path, host: str = "127.0.0.1"
) -> Iterator[tuple[str, subprocess.Popen, list[subprocess.Popen]]]:
    """A scheduler and two workers on this machine, as a user would start them; its address, it, and them."""
    folder.mkdir()
    file = folder / "scheduler.json"
    options = ("--scheduler-file", file, "--no-dashboard", "--host", host)
    worker = ("dask_worker", *options, "--nthreads", "1", "--no-nanny", "--local-directory", folder)
    processes = []
    try:
        for module, *words in (("dask_scheduler", *options, "--port", "0"), worker, worker):
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", f"distributed.cli.{module}", *map(str, words)],
                    env=environment(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd=folder,
                )
            )
            wait_until(file.exists, processes[0])
        yield json.loads(file.read_text())["address"], processes[0], processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_worker_killed_at_work_loses_nothing(tmp_path, made, whole, slow_children):
    out = tmp_path / "out"
    with (
        dask_processes(tmp_path / "dask") as (address, _, workers),
        started(*call(made, out, *train("--dask-scheduler", address))) as process,
    ):
        wait_until(lambda: lock_of(out, "sub-01"), process)
        victim = lock_of(out, "sub-01")
        (worker,) = (item for item in workers if item.pid == psutil.Process(victim).ppid())
        kill(worker)
        done = finish(process)
    assert done.code == 0, done.text
    assert results(out) == whole
    assert remains(out) == []
    (log,) = (text for path in (out / "logs").iterdir() if "took over" in (text := path.read_text()))
    assert f"pid {victim}" in log
    assert "sub-01: resumed after" in log


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, to make a certificate")
def test_an_encrypted_cluster_serves_whoever_has_its_certificate_and_nobody_else(tmp_path, made, monkeypatch):
    certificate = tmp_path / "mine.pem"
    words = ("-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=ivim")
    made_here = ("openssl", "req", *words, "-keyout", certificate, "-out", "-")
    certificate.write_bytes(
        subprocess.run(made_here, check=True, capture_output=True).stdout + certificate.read_bytes()
    )
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION", "True")
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TLS__CA_FILE", str(certificate))
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        monkeypatch.setenv(f"DASK_DISTRIBUTED__COMM__TLS__{role}__CERT", str(certificate))
    with dask_processes(tmp_path / "dask", "tls://127.0.0.1") as (address, *_):
        assert address.startswith("tls://")
        done = run(*call(made, tmp_path / "out", *QUICK, "--dask-scheduler", address))
        assert done.code == 0, done.text
        assert "runs: 2 written" in done.out
        monkeypatch.delenv("DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT")
        refused = run(*call(made, tmp_path / "other", *QUICK, "--dask-scheduler", address))
        assert refused.code == 64, refused.text
        assert "tls:// needs Dask's settings of TLS" in refused.err


@pytest.mark.slow
def test_a_scheduler_that_ends_meanwhile_is_to_be_tried_again(tmp_path, made, whole, slow_children):
    out = tmp_path / "out"
    with dask_processes(tmp_path / "dask") as (address, scheduler, _):
        options = train("--dask-scheduler", address)
        with started(*call(made, out, *options), prelude=ONE_AHEAD) as process:
            wait_until(lambda: lock_of(out, "sub-01"), process)
            kill(scheduler)
            done = finish(process)
    assert done.code == 75, done.text
    assert done.err.count("the Dask scheduler has ended") == len(NAMES)
    assert "Traceback" not in done.text
    check_goes_on(made, out, whole)


@pytest.mark.slow
def test_the_first_failure_stops_the_others_where_asked_for(tmp_path, made, slow_children):
    out = tmp_path / "out"
    add_run(made, "sub-00", bvals=BVALS[:-1])
    with started(*call(made, out, *train("--nprocs", "2", "--stop-on-first-crash"))) as process:
        done = finish(process)
    assert done.code == 65, done.text
    assert "runs: 0 written, 0 skipped, 1 failed" in done.out
    assert {path.name for path in out.glob(".work/*/*")} <= {"training.pt", MADE_FILE}
    assert not list(out.glob("sub-*/dwi/*_dwimap.nii.gz"))


@pytest.mark.slow
@pytest.mark.parametrize("again", [(), ("--overwrite",)])
def test_a_study_network_is_trained_once_and_the_maps_are_the_same(tmp_path, made, slow_children, again):
    options = train("--training-scope", "study")
    one, many = tmp_path / "one", tmp_path / "many"
    with started(*call(made, one, *options), prelude=SLOWLY + NO_FIGURES) as process:
        assert finish(process).code == 0
    with started(*call(made, many, *options, *again, "--nprocs", "2")) as process:
        done = finish(process)
    assert done.code == 0, done.text
    assert results(many) == results(one)
    assert remains(many) == []
    logs = [path.read_text() for path in (many / "logs").iterdir()]
    assert sum("study network: training on" in log for log in logs) == 1
    assert sum("study network: taken from" in log for log in logs) == len(NAMES)

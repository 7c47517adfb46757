"""Nothing that a notebook, a scheduler or a container leaves around the app changes or ends its work."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from app_processes import NO_FIGURES, RUNNER, results
from app_runs import QUICK, command, dataset, environment

from sicnn_app.cli.main import main
from sicnn_app.system.caches import limit_library_threads
from sicnn_app.system.surroundings import undisturbed

TASKS = (*QUICK[:-1], "1", "--nprocs", "2")


@pytest.fixture
def junk(tmp_path) -> Path:
    """Files that end the import of a library, or change what it does."""
    folder = tmp_path / "junk"
    (folder / ".config" / "dask").mkdir(parents=True)
    (folder / "pybids_config.json").write_text("{")
    (folder / "matplotlibrc").write_bytes(b"figure.dpi: 7\nimage.cmap: hot\nlines.linewidth: 9\n\xff\xfe\n")
    (folder / ".config" / "dask" / "dask.yaml").write_text("a: [\n b: :")
    return folder


def gone(words: list[str]) -> list[str]:
    """The command in a current folder that was deleted."""
    return ["bash", "-c", f'cd "$(mktemp -d)" && rmdir "$PWD" && {shlex.join(words)}']


def finish(words: list[str], **options) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=240, **options)
    assert (done.returncode, done.stderr.count("internal error")) == (0, 0), done.stdout + done.stderr


@pytest.mark.parametrize("options", [QUICK, TASKS], ids=["one process", "tasks"])
def test_maps_and_reports_do_not_depend_on_what_is_around(tmp_path, junk, options):
    made = dataset(tmp_path / "bids", "sub-01", "sub-02")
    everything = {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MATPLOTLIBRC": str(junk),
        "PYTHONOPTIMIZE": "2",
        "PYTHONWARNINGS": "error",
        "HOME": str(junk),
        "PYBIDS_CONFIG": str(junk / "pybids_config.json"),
        "DASK_CONFIG": str(junk / ".config" / "dask"),
        "DASK_DISTRIBUTED__WORKER__PRELOAD": "no_such_module",
        "TORCH_LOGS": "junk",
        "SOURCE_DATE_EPOCH": "junk",
        "JOBLIB_MULTIPROCESSING": "junk",
        "BIDS_SCHEMA_LOG_LEVEL": "junk",
        "NUMPY_MADVISE_HUGEPAGE": "junk",
        "SYMPY_DEBUG": "junk",
        "TQDM_MININTERVAL": "junk",
        "TORCHINDUCTOR_COMPILE_THREADS": "junk",
        "OMP_NUM_THREADS": "auto",
        "TMPDIR": str(junk / "matplotlibrc"),
        "COLUMNS": "0",
    }
    outputs = [tmp_path / "clean", tmp_path / "disturbed"]
    finish(command(made.root, outputs[0], "participant", *QUICK), env=environment())
    call = command(made.root, outputs[1], "participant", *options)
    finish(call, env=environment(**everything), cwd=junk)
    assert results(outputs[0]) == results(outputs[1])
    pages = [(out / "sub-01.html").read_bytes() for out in outputs]
    assert pages[0] == pages[1]


@pytest.mark.parametrize("home", ["~", "x" * 5000, "\udcff", "/proc/1/root"])
def test_any_home_will_do(tmp_path, home):
    made = dataset(tmp_path / "bids")
    finish(command(made.root, tmp_path / "out", "participant", "--dry-run"), env=environment(HOME=home))


def test_a_current_folder_that_was_deleted_will_do(tmp_path):
    made, out = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "out"
    words = [sys.executable, "-c", RUNNER.format(prelude=NO_FIGURES)]
    finish(gone([*words, str(made.root), str(out), "participant", *TASKS]), env=environment())
    assert len(results(out)) > 10


SIMULATE = [sys.executable, "-c", "import sys; from sicnn_app.cli.simulate import main; sys.exit(main())"]


@pytest.mark.parametrize(
    "words",
    [command("bids", "out", "participant"), [*SIMULATE, "--assess", "--preset", "abdomen", "out"]],
    ids=["app", "assessment"],
)
def test_relative_paths_in_a_deleted_folder_are_a_usage_error(words):
    done = subprocess.run(gone(words), capture_output=True, text=True, env=environment())
    assert done.returncode == 64
    assert "the current folder was deleted" in done.stderr


def test_relative_paths_mean_the_folder_of_the_call(tmp_path, monkeypatch, capsys):
    dataset(tmp_path / "bids")
    monkeypatch.chdir(tmp_path)
    assert main(["bids", "out", "participant", *QUICK, "-w", "work", "--bids-database-dir", "db"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bids", "db", "out"]
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize("flags", [("-OO",), ("-B", "-OOm")])
def test_python_may_be_told_to_drop_docstrings(tmp_path, flags):
    words = [sys.executable, *flags, *([] if flags[-1].endswith("m") else ["-m"]), "sicnn_app"]
    made = dataset(tmp_path / "bids")
    call = [*words, str(made.root), str(tmp_path / "out"), "participant", *QUICK]
    finish(call, env=environment(PYTHONOPTIMIZE=None))


def test_the_environment_and_the_folder_come_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "junk")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = dict(os.environ)
    with pytest.raises(ZeroDivisionError), undisturbed(dask=False):
        limit_library_threads(3)
        assert "MPLBACKEND" not in os.environ
        assert not os.access(Path.home(), os.R_OK | os.X_OK)
        _ = 1 / 0
    assert (dict(os.environ), Path.cwd()) == (before, tmp_path)


@pytest.mark.parametrize(
    "name",
    ["CUDA_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF", "OMP_PROC_BIND", "http_proxy", "TZ"],
)
def test_what_a_user_may_set_stays(monkeypatch, name):
    monkeypatch.setenv(name, "value")
    with undisturbed(dask=False):
        assert os.environ[name] == "value"


def test_dask_keeps_its_settings_where_a_scheduler_is_named(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TLS__CA_FILE", "ca.pem")
    for wanted in (True, False):
        with undisturbed(dask=wanted):
            assert ("DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in os.environ) == wanted
            assert os.environ.get("DASK_CONFIG") == ("/home/somebody/.config/dask" if wanted else None)


def test_settings_of_dask_that_do_not_parse_are_named(tmp_path, junk):
    made = dataset(tmp_path / "bids", "sub-01", "sub-02")
    done = subprocess.run(
        command(made.root, tmp_path / "out", "participant", "--dask-scheduler", "tcp://127.0.0.1:9"),
        capture_output=True,
        text=True,
        env=environment(HOME=str(junk)),
    )
    assert done.returncode == 64, done.stderr
    assert "Dask cannot read its settings" in done.stderr


def test_modules_are_found_by_relative_paths_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["own", "/other"]))
    with undisturbed(dask=False):
        assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(tmp_path / "own"), "/other"]

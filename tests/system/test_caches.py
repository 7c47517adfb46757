"""Where libraries may write, whatever HOME and /tmp are like."""

import os
import tempfile
from pathlib import Path

import pytest
from app_runs import QUICK, dataset, environment, execute

from sicnn_app.system.caches import CACHE_VARIABLES, limit_library_threads, private_caches, thread_variables


def variables() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in CACHE_VARIABLES}


def test_every_cache_lies_in_the_folder_until_the_end(tmp_path):
    before = variables()
    with private_caches(tmp_path):
        for name, part in CACHE_VARIABLES.items():
            assert os.environ[name] == str(tmp_path / part)
            assert (tmp_path / part).is_dir()
        assert Path(tempfile.mkdtemp()).parent == tmp_path / CACHE_VARIABLES["TMPDIR"]
    assert variables() == before
    assert Path(tempfile.mkdtemp(dir=tmp_path)).exists()


def test_caches_are_absolute_also_when_the_output_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("caches").mkdir()
    with private_caches(Path("caches")):
        assert all(Path(os.environ[name]).is_absolute() for name in CACHE_VARIABLES)


def test_variables_come_back_after_an_error_too(tmp_path):
    before = variables()
    with pytest.raises(ZeroDivisionError), private_caches(tmp_path):
        _ = 1 / 0
    assert variables() == before


def test_a_folder_that_cannot_be_written_is_an_error_and_changes_nothing(tmp_path):
    before = variables()
    with pytest.raises(OSError), private_caches(tmp_path / "none"):
        pass
    assert variables() == before


def test_libraries_learn_the_number_of_threads(monkeypatch):
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    for name in names:
        monkeypatch.setenv(name, "7")
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        # Set first, so that it is gone again afterwards.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    limit_library_threads(3)
    assert [os.environ[name] for name in names] == ["3"] * 4
    assert int(os.environ["GOMP_SPINCOUNT"]) < 300_000


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_how_threads_wait_is_the_callers_choice_where_there_is_one(monkeypatch, name):
    for other in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "PASSIVE" if name == "OMP_WAIT_POLICY" else "77")
    assert "GOMP_SPINCOUNT" not in thread_variables(3)


def test_no_library_looks_for_a_cache_before_it_has_its_place(tmp_path):
    home = tmp_path / "home"
    home.touch()
    env = environment(**dict.fromkeys(CACHE_VARIABLES), HOME=str(home))
    made, out = dataset(tmp_path / "bids").root, tmp_path / "out"
    for level, options in (("participant", QUICK), ("group", ())):
        call = execute(made, out, level, *options, env=env)
        assert call.code == 0, call.err
        assert str(home) not in call.err

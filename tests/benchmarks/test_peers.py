"""Published fits through the command that compares them, with fits that go wrong in every way; no network."""

from __future__ import annotations

import csv
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.accuracy import controls
from benchmarks.accuracy.refinement import measured
from benchmarks.peers import __main__ as command
from benchmarks.peers import environments, measurements
from benchmarks.peers.fits import (
    PEERS,
    Environment,
    Peer,
    PeerError,
    fit_peer,
    stratified_sample,
    within_bounds,
)
from sicnn_app.ivim.signal import ivim_signal
from sicnn_app.settings import Bounds

WORKER = """
import sys
import numpy as np
name, problem, result = sys.argv[1:]
open(__file__ + ".calls", "a").write(name + "\\n")
with np.load(problem) as held:
    count, bounds = len(held["signals"]), held["bounds"]
maps = dict(zip(("f", "d", "dstar"), np.outer(bounds[:3].mean(axis=1), np.ones(count))))
if name == "middle-ill":
    raise RuntimeError("no such luck")
if name == "middle-killed":
    import os
    os.abort()
if name == "middle-short":
    maps["d"] = maps["d"][1:]
if name == "middle-mute":
    del maps["dstar"]
if name == "middle-astray":
    maps["f"][::2] = np.nan
    maps["dstar"] *= 1e6
if name != "middle-lost":
    np.savez(result, **maps, seconds=2.0, training=0.0, memory=0.5, epochs=0)
"""

WRONG = {
    "middle-ill": "RuntimeError: no such luck",
    "middle-killed": "ended by signal 6",
    "middle-short": "values of d were due",
    "middle-mute": "values of dstar were due",
    "middle-lost": "cannot be read",
}

FAKE_UV = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/calls"
if [ "$1" = venv ]; then
    for place; do :; done
    mkdir -p "$place/bin" && ln -s {python} "$place/bin/python"
else
    for list; do :; done
    if grep -q impossible "$list"; then
        echo "error: nothing at https://somewhere/simple/impossible" >&2
        exit 1
    fi
fi
"""


HERE = Environment(Path(sys.executable), {"numpy": np.__version__}, 0.0)


def called(*arguments: object, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["peers", *map(str, arguments)])
    command.main()


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Fits of a worker that hands back the middle of the bounds, and of some that do not; an empty folder."""
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER, encoding="utf-8")
    for name in ("middle", "middle-astray", *WRONG):
        monkeypatch.setitem(PEERS, name, Peer(("numpy",), worker=worker))
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    monkeypatch.setattr(command, "code_digest", lambda: "as it is")
    return tmp_path


def test_whatever_a_fit_does_the_table_has_the_others_and_a_line_about_it(fakes, monkeypatch, capsys):
    (fakes / "absent.txt").write_text("no-such-fit==1.0\n", encoding="utf-8")
    monkeypatch.setitem(PEERS, "not-there", Peer(("no-such-fit",), "absent", worker=fakes / "worker.py"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    names = ["middle", "middle-astray", *WRONG]
    options = ["--truths", "organs", "--shape", 24, 20, 1, "--signals", "denoised", "--data", fakes / "none"]
    options += ["--out", fakes / "out", "--environments", fakes / "environments", "--peers"]
    called(*options, *names, "not-there", monkeypatch=monkeypatch)
    page = (fakes / "out" / "peers.md").read_text(encoding="utf-8")
    notes = {line[2:].split(",")[0].split(":")[0]: line for line in page.splitlines() if line[:2] == "- "}
    for name, reason in WRONG.items():
        assert reason in notes[name]
        assert f"| {name} |" not in page
    assert "no-such-fit" in notes["not-there"] and "left out" in notes["halves"]

    with (fakes / "out" / "peers.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(line for line in stream if not line.startswith("#")))
    found = {(row["fit"], row["signals"], row["table"]): row for row in rows}
    assert {fit for fit, _, _ in found} == {"lsq", "middle", "middle-astray"}
    middle, astray = (found[name, "denoised", "all"] for name in ("middle", "middle-astray"))
    assert float(middle["outside"]) == 0 and float(astray["outside"]) == 1
    # Values outside are clipped, those that are none replaced: errors are those of such maps.
    phantom, mask, _ = measurements.prepared_truth(command.Simulation("organs", 20.0, 31, 1, (24, 20, 1)))
    perfused = mask & (phantom.f > 0.02)
    clipped = np.sqrt(np.mean(np.square(Bounds().dstar[1] - phantom.dstar[perfused])))
    assert float(astray["rmse_dstar"]) == pytest.approx(clipped)
    assert float(middle["rmse_f"]) > 0 and np.isfinite(float(astray["rmse_f"]))

    cells = (fakes / "out" / "cells.jsonl").read_text(encoding="utf-8")
    capsys.readouterr()
    called(*options, "middle", monkeypatch=monkeypatch)
    assert (fakes / "out" / "cells.jsonl").read_text(encoding="utf-8") == cells
    again = capsys.readouterr().out
    assert "| middle | denoised |" in again and "astray" not in again.partition("## ")[2]


def test_a_fit_is_made_once_of_what_it_is_given_and_again_when_any_of_that_changes(fakes, monkeypatch):
    _, mask, prepared = measurements.prepared_truth(command.Simulation("organs", 20.0, 31, 1, (24, 20, 1)))
    averaged, worker = prepared["denoised"].averaged, PEERS["middle"].worker
    fitted = partial(fit_peer, HERE, "middle", averaged, mask, 31, kept=fakes / "kept")

    def calls() -> int:
        return len((fakes / "worker.py.calls").read_text().splitlines())

    first = fitted()
    assert calls() == 1
    # Neither the app's version nor what this fit is not told of is a reason to make it again.
    monkeypatch.setattr("benchmarks.common.cells.__version__", "99.0")
    told = replace(averaged, noise=2 * averaged.noise)
    again = fit_peer(
        HERE, "middle", told, mask, 31, evidence=prepared["denoised"].evidence, kept=fakes / "kept"
    )
    assert calls() == 1 and again.seconds == first.seconds == 2
    assert all((again.maps[label][mask] == first.maps[label][mask]).all() for label in first.maps)

    signals, fewer = averaged.signals.copy(), mask.copy()
    signals[tuple(np.argwhere(mask)[0])] *= 1.001
    fewer[tuple(np.argwhere(mask)[0])] = False
    others = [
        (HERE, "middle", replace(averaged, signals=signals), mask, 31),
        (HERE, "middle", replace(averaged, bvals=averaged.bvals + (averaged.bvals > 0)), mask, 31),
        (HERE, "middle", averaged, fewer, 31),
        (HERE, "middle", averaged, mask, 32),
        (replace(HERE, versions={"numpy": "0.1"}), "middle", averaged, mask, 31),
        (replace(HERE, requirements="scipy==1.0"), "middle", averaged, mask, 31),
        (HERE, "middle-astray", averaged, mask, 31),
    ]
    for _ in range(2):
        for one in others:
            fit_peer(*one, kept=fakes / "kept")
        assert calls() == 1 + len(others)
    worker.write_text(WORKER + "# changed", encoding="utf-8")
    fitted()
    assert calls() == 2 + len(others)
    for _ in range(2):
        with pytest.raises(PeerError):
            fit_peer(HERE, "middle-short", averaged, mask, 31, kept=fakes / "kept")
    assert calls() == 4 + len(others)
    assert {path.suffix for path in (fakes / "kept").iterdir()} == {".npz"}


def test_controls_measure_once_for_all_published_fits_and_one_that_fails_is_not_a_number(
    fakes, monkeypatch, capsys
):
    small = partial(measured, shape=(24, 20, 1))
    counted = []
    monkeypatch.setattr(controls, "measured", lambda *given: counted.append(given) or small(*given))
    found = controls.peers_errors(
        {"middle-ill": HERE, "middle": HERE}, "organs", 20.0, 31, 1, kept=fakes / "kept"
    )
    assert len(counted) == 1 and np.isnan(found["middle-ill"]).all()
    phantom, mask, _ = measurements.prepared_truth(command.Simulation("organs", 20.0, 31, 1, (24, 20, 1)))
    expected = np.sqrt(np.mean(np.square(np.mean(Bounds().f) - phantom.f[mask])))
    assert found["middle"][0] == pytest.approx(expected)
    assert "middle-ill: RuntimeError: no such luck" in capsys.readouterr().err


def test_an_environment_is_made_once_and_again_when_its_list_changes(fakes, monkeypatch):
    uv = fakes / "path" / "uv"
    uv.parent.mkdir()
    uv.write_text(FAKE_UV.format(python=sys.executable), encoding="utf-8")
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", str(uv.parent), prepend=os.pathsep)
    wanted = fakes / "some.txt"
    wanted.write_text("one==1.0\n", encoding="utf-8")
    monkeypatch.setitem(PEERS, "some", Peer(("numpy",), "some"))
    place = fakes / "environments"
    calls = uv.with_name("calls")

    made = environments.environment_of("some", place)
    assert made.python.parent.parent == place / "some" and made.versions["numpy"] == np.__version__
    assert environments.environment_of("some", place) == made
    assert len(calls.read_text().splitlines()) == 2
    wanted.write_text("impossible==1.0\n", encoding="utf-8")
    with pytest.raises(PeerError, match=r"not installed: error: nothing at \.\.\.$"):
        environments.environment_of("some", place)
    wanted.write_text("one==1.0\n", encoding="utf-8")
    # A failed installation leaves nothing that is taken for a whole one.
    assert environments.environment_of("some", place).versions == made.versions
    assert len(calls.read_text().splitlines()) == 6


def test_halves_with_equal_maps_do_not_vary_and_are_held_against_the_single_volumes_of_the_other(
    fakes, monkeypatch
):
    phantom, series, _ = measured("organs", 20.0, 1, 4, (24, 20, 1))
    first = np.tile([True, False], series.bvals.size // 2)
    halves = [series.select(keep) for keep in (first, ~first)]
    monkeypatch.setattr(measurements, "measured_halves", lambda *_, runs: [(halves, phantom.mask)])
    found = measurements.fit_halves("middle", HERE, fakes, ["a run"], "raw", 1, kept=fakes)
    *variation, difference = found["numbers"]
    assert variation == [0, 0, 0] and found["epochs"] == [0, 0]
    _, prepared, organs, _ = measurements.prepared_halves(fakes, "a run", "raw")
    bounds = Bounds()
    curves = ivim_signal(series.bvals, np.mean(bounds.f), np.mean(bounds.d), np.mean(bounds.dstar))
    apart = []
    for given_half, other in zip((first, ~first), (~first, first), strict=True):
        signals, curve = series.signals[organs].astype(float), curves
        s0 = signals[:, given_half] @ curve[given_half] / np.square(curve[given_half]).sum()
        apart.append(np.abs(s0[:, None] * curve[other] - signals[:, other]).mean(axis=1))
    level = np.mean([one.averaged.signals[organs, 0] for one in prepared], axis=0)
    assert difference == pytest.approx(np.mean(np.array(apart) / level), rel=0.05)


def test_every_published_fit_has_a_list_in_which_all_it_needs_is_pinned():
    for name, peer in PEERS.items():
        if peer.environment is not None:
            text = (environments.REQUIREMENTS / f"{peer.environment}.txt").read_text(encoding="utf-8")
            lines = [line for line in text.splitlines() if not line.startswith("#")]
            assert all("==" in line and "://" not in line for line in lines)
            assert {one.lower() for one in peer.needs} <= {line.split("==")[0].lower() for line in lines}, (
                name
            )


@given(arrays(float, (3, 5), elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_maps_are_inside_the_bounds_and_what_was_not_is_told(values):
    labels = ("f", "d", "dstar")
    kept, outside = within_bounds(dict(zip(labels, values, strict=True)))
    for label, given_values in zip(labels, values, strict=True):
        lower, upper = getattr(Bounds(), label)
        assert ((kept[label] >= lower) & (kept[label] <= upper)).all()
        unchanged = ~outside & (given_values >= lower) & (given_values <= upper)
        assert (kept[label][unchanged] == given_values[unchanged]).all()
        assert outside[~np.isfinite(given_values)].all()


@given(st.integers(0, 100), st.integers(1, 400))
def test_a_sample_has_every_tissue_and_the_size_that_was_asked_for(seed, count):
    rng = np.random.default_rng(seed)
    strata, mask = rng.choice(4, (20, 20, 1), p=(0.02, 0.08, 0.3, 0.6)), rng.random((20, 20, 1)) < 0.8
    chosen = stratified_sample(strata, mask, count, seed)
    assert not (chosen & ~mask).any()
    assert chosen.sum() == min(count, mask.sum()) or (count < 20 and chosen.sum() <= 20)
    for code in np.unique(strata[mask]):
        assert (chosen & (strata == code)).sum() >= min(5, (mask & (strata == code)).sum())


def test_size_of_an_environment_is_that_of_its_files(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"x" * 1000)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "file")
    assert environments._size_of_files(Path(tmp_path)) == pytest.approx(1000 / 1e9, abs=2e-7)

"""Series on disk instead of in memory, the plan that decides it, and room for what will be written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from app_runs import ROOT, App, dataset, environment
from bids_datasets import Dataset
from factories import make_result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sicnn_app.bids.load import load_run, series_size
from sicnn_app.derivatives.write import estimated_size, require_room, write_run
from sicnn_app.errors import DataError, OutputError, TryAgainError
from sicnn_app.ivim.run import DwiRun, SourceImage
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.preprocess import denoise
from sicnn_app.system import memory
from sicnn_app.system.memory import DiskArray, empty_series, plan_memory, require_space

STEM = "sub-01/dwi/sub-01_dwi"
MB = 1_000_000
SHAPE = (96, 96, 12, 100)
"""A series of 44 MB."""

STEPS = ("--denoise", "none", "--motion-correction", "none")
CORRECTIONS = ("--denoise", "mppca", "--unring", "--motion-correction", "rigid")
LSQ = ("participant", "--method", "lsq", "--device", "cpu", "--omp-nthreads", "1", *STEPS)


@pytest.fixture
def app(capsys):
    return App(capsys)


def run_of(image: Path) -> DwiRun:
    return DwiRun({"sub": "01"}, (SourceImage(image, image.with_name("sub-01_dwi.bval"), None),))


def big_image(root: Path, shape: tuple[int, int, int, int] = SHAPE, *, scaled: bool = True) -> Path:
    """An int16 image of tissue in air; every second volume is another one, so that it is made quickly."""
    bvals = [float(b) for b in np.resize((0, 10, 20, 40, 80, 150, 300, 500, 700, 900), shape[3])]
    rng = np.random.default_rng(0)
    tissue = np.zeros(shape[:3])
    tissue[shape[0] // 6 : -shape[0] // 6, shape[1] // 6 : -shape[1] // 6] = 1000.0
    data = np.empty(shape, dtype=np.int16, order="F")
    for volume, b in enumerate(bvals[:20]):
        signal = tissue * (0.2 * np.exp(-0.04 * b) + 0.8 * np.exp(-0.0012 * b))
        data[..., volume] = np.hypot(*(signal * k + rng.normal(0, 10, shape[:3]) for k in (1, 0)))
    for volume in range(20, shape[3]):
        data[..., volume] = data[..., volume % 20]
    made = Dataset(root)
    path = made.image(STEM, bvals=tuple(bvals))
    image = nib.Nifti1Image(data, np.diag([2.0, 2.0, 4.0, 1.0]))
    if scaled:
        image.header.set_slope_inter(0.37, 1.5)
    image.to_filename(path)
    return path


def mapped() -> int:
    """Bytes of files and shared memory that are resident in this process."""
    status = Path("/proc/self/status").read_text()
    return sum(int(re.search(rf"{key}:\s+(\d+)", status)[1]) * 1024 for key in ("RssFile", "RssShmem"))


# A series on disk


def test_a_series_on_disk_has_no_name_and_little_memory(tmp_path):
    size = 4 * int(np.prod(SHAPE))
    series = DiskArray.create((*SHAPE[:3], 3 * SHAPE[3]), tmp_path)
    before = mapped()
    for volume in range(series.shape[3]):
        series[..., volume] = float(volume)
    assert [float(series[..., volume].max()) for volume in (0, 1, 150, 299)] == [0, 1, 150, 299]
    assert sum(float(series[0, 0, 0, volume]) for volume in range(300)) == sum(range(300))
    assert mapped() - before < 2 * memory.RELEASE_BYTES < 3 * size
    assert list(tmp_path.iterdir()) == []


INDICES = st.one_of(
    st.tuples(st.just(...), st.integers(-5, 4)),
    st.tuples(st.just(...), st.slices(5)),
    st.tuples(st.just(...), st.lists(st.booleans(), min_size=5, max_size=5).map(np.array)),
    st.tuples(st.just(...), st.lists(st.integers(-5, 4), min_size=1, max_size=7).map(np.array)),
    st.tuples(*(st.integers(0, n - 1) for n in (4, 3, 2))),
    st.tuples(st.integers(0, 3), st.just(...)),
    st.just(np.arange(24).reshape(4, 3, 2) % 3 == 0),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(INDICES)
def test_whatever_is_taken_from_a_series_on_disk_has_its_values(tmp_path, index):
    values = np.random.default_rng(0).normal(size=(4, 3, 2, 5)).astype(np.float32)
    series = DiskArray.create(values.shape, tmp_path)
    for volume in range(5):
        series[..., volume] = values[..., volume]
    taken = series[index]
    series.release()
    np.testing.assert_array_equal(np.asarray(taken), values[index])
    np.testing.assert_array_equal(series * 2, values * 2)


def test_several_volumes_of_a_series_on_disk_are_on_disk(tmp_path):
    series = DiskArray.create((4, 3, 2, 5), tmp_path)
    for part in (series[..., :3], series[..., np.array([True, False, True, False, True])]):
        assert isinstance(part, DiskArray) and part.shape == (4, 3, 2, 3)
        assert isinstance(empty_series((4, 3, 2, 9), like=part), DiskArray)
    assert not isinstance(series[..., 2], DiskArray)
    slab = series[:, :, 1:]
    assert isinstance(slab, DiskArray) and slab.shape == (4, 3, 1, 5) and np.shares_memory(slab, series)
    assert type(empty_series((4, 3, 2, 9), like=np.zeros(3))) is np.ndarray
    assert empty_series((4, 3, 2, 9))[..., 0].flags.f_contiguous


def test_selected_volumes_stay_on_disk(tmp_path):
    series = DwiSeries(DiskArray.create((4, 3, 2, 5), tmp_path), np.arange(5.0), None, np.eye(4))
    selected = series.select(np.array([True, True, False, True, True]))
    assert isinstance(selected.signals, DiskArray)


def test_a_disk_without_room_for_the_series_is_an_output_error(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(memory.os, "posix_fallocate", full)
    with pytest.raises(OutputError, match=r"No space left.*--work-dir or allow more --mem"):
        DiskArray.create((4, 3, 2, 5), tmp_path)
    assert list(tmp_path.iterdir()) == []


# Loading


@pytest.mark.parametrize("scaled", [True, False])
def test_loading_holds_little_more_than_the_series(tmp_path, scaled):
    image = big_image(tmp_path / "ds", scaled=scaled)
    expected = np.asarray(nib.load(image).dataobj, dtype=np.float32)
    tracemalloc.start()
    try:
        loaded = load_run(run_of(image), bvals_file=None)
        in_memory = tracemalloc.get_traced_memory()[1]
        del loaded
        tracemalloc.reset_peak()
        on_disk = load_run(run_of(image), bvals_file=None, scratch=tmp_path)
        traced = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert in_memory < 1.2 * expected.nbytes
    assert traced < 0.5 * expected.nbytes
    assert isinstance(on_disk.series.signals, DiskArray)
    for volume in range(0, SHAPE[3], 7):
        np.testing.assert_array_equal(on_disk.series.signals[..., volume], expected[..., volume])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    dtype=st.sampled_from(["u1", "i1", "<i2", ">i2", "u2", "i4", "u4", "i8", "<f4", ">f4", "f8"]),
    scaling=st.sampled_from([None, (2.5, -3.0), (0.1, 0.0), (1.0, 7.0), (1e30, 0.0)]),
    compressed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_loading_gives_the_values_nibabel_gives(tmp_path, dtype, scaling, compressed, seed):
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(seed)
    shape = (5, 4, 3, 5)
    data = rng.normal(scale=100, size=shape) if dtype.kind == "f" else rng.integers(0, 100, shape)
    image = Dataset(tmp_path / "ds").image(STEM, data=np.zeros(shape, dtype=np.float32))
    header = nib.Nifti1Header(endianness=dtype.byteorder if dtype.byteorder in "<>" else "<")
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_slope_inter(*(scaling or (1.0, 0.0)))
    content = nib.Nifti1Image(data.astype(dtype), None, header)
    if not compressed:
        image.unlink()
        image = image.with_suffix("")
    with image.open("wb") if not compressed else nib.openers.ImageOpener(image, "wb") as stream:
        content.header.set_data_offset(352)
        content.header["magic"] = b"n+1"
        stream.write(content.header.binaryblock + bytes(4))
        stream.write(data.astype(dtype).tobytes(order="F"))
    with np.errstate(over="ignore"):
        expected = np.asarray(nib.load(image).dataobj, dtype=np.float32)
    expected = np.where(np.isinf(expected), np.nan, expected)
    if np.isnan(expected).all(axis=(0, 1, 2)).any() or not expected.any():
        return
    for scratch in (None, tmp_path):
        signals = load_run(run_of(image), bvals_file=None, scratch=scratch).series.signals
        np.testing.assert_array_equal(signals, expected)


def test_the_size_of_a_series_is_known_without_its_voxels(tmp_path):
    image = Dataset(tmp_path / "ds").image(STEM)
    run = run_of(image)
    assert series_size(run, bvals_file=None) == ((3, 3, 2, 5), 5)


# Writing


def test_a_series_on_disk_is_written_as_one_in_memory(tmp_path):
    from dataclasses import replace

    result = make_result(tmp_path)
    on_disk = DiskArray.create(result.series.signals.shape, tmp_path)
    for volume in range(on_disk.shape[3]):
        on_disk[..., volume] = result.series.signals[..., volume]
    written = {}
    for name, signals in (("memory", result.series.signals), ("disk", on_disk)):
        series = replace(result.series, signals=signals)
        out = tmp_path / name
        write_run(replace(result, series=series), out, bids_dir=tmp_path / "bids", dataset_links={})
        written[name] = (out / "sub-01/dwi/sub-01_desc-preproc_dwi.nii.gz").read_bytes()
    assert written["disk"] == written["memory"]


# The plan

SERIES = 4 * int(np.prod(SHAPE))


def planned(limit: float | None, **changes):
    options = {"bvals": 10, "resident": 400 * MB, **changes}
    return plan_memory(SHAPE, limit=limit, **options)


def test_without_a_limit_everything_is_in_memory():
    plan = planned(None, denoise="auto", estimation=10**15)
    assert (plan.on_disk, plan.disk) == (False, 0)


def test_the_series_goes_to_disk_before_anything_is_refused():
    in_memory = planned(None).needed
    on_disk = planned(in_memory / 1e9 - 0.001)
    assert planned(in_memory / 1e9).on_disk is False
    assert on_disk.on_disk and on_disk.needed < in_memory and on_disk.disk >= SERIES
    with pytest.raises(TryAgainError, match=r"about 0\.\d+ GB of memory are needed.*--mem allows 0.3: allow"):
        planned(0.3)


def test_a_training_that_needs_much_puts_the_series_on_disk():
    limit = planned(None).needed / 1e9
    assert not planned(limit).on_disk
    assert planned(limit, estimation=200 * MB).on_disk


@pytest.mark.parametrize("method", ["mppca", "patch2self"])
def test_denoising_that_cannot_be_afforded_is_refused(method):
    limit = planned(None).needed / 1e9
    with pytest.raises(TryAgainError, match="or use --denoise none"):
        planned(limit, denoise=method)
    assert planned(limit).needed <= limit * 1e9
    assert planned(10 * limit, denoise=method).needed > limit * 1e9


def test_the_plan_knows_how_denoising_deals_volumes():
    assert memory.DENOISE_GROUP == denoise.MAX_GROUP


@given(
    limit=st.floats(0.3, 3.0),
    more=st.floats(0.0, 3.0),
    denoise=st.sampled_from(["none", "mppca", "patch2self"]),
    estimation=st.integers(0, 10**9),
    corrections=st.integers(0, 2),
)
def test_more_memory_is_never_worse(limit, more, denoise, estimation, corrections):
    options = {"denoise": denoise, "estimation": estimation, "corrections": corrections}
    try:
        plan = planned(limit, **options)
    except TryAgainError:
        return
    assert plan.needed <= limit * 1e9
    better = planned(limit + more, **options)
    assert better.on_disk <= plan.on_disk


def test_peak_memory_counts_what_this_process_took():
    before = memory.peak_memory()
    block = np.ones((int(before * 1e9) - memory.resident_memory() + 100 * MB) // 8)
    assert memory.resident_memory() > block.nbytes
    del block
    assert memory.peak_memory() > before
    assert memory.resident_memory() < memory.peak_memory() * 1e9
    assert memory.remaining_memory(None) is None
    assert memory.remaining_memory(1e-6) == 0
    left = memory.remaining_memory(100.0)
    assert left == pytest.approx(100e9 - memory.resident_memory(), abs=50 * MB)


# Room on the disk


def test_too_little_room_is_told_with_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda path: SimpleNamespace(free=2_500_000_000))
    absent = tmp_path / "not" / "yet"
    require_space([(absent, 2_400_000_000)])
    with pytest.raises(OutputError, match=r"not/yet: about 2\.6 GB will be written and 2\.5 GB are free"):
        require_space([(absent, 2_600_000_000)])
    with pytest.raises(OutputError, match="about 3 GB"):
        require_space([(absent, 1_500_000_000), (tmp_path, 1_500_000_000)])


def test_a_file_system_that_does_not_tell_is_no_obstacle(tmp_path, monkeypatch):
    def silent(path):
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr(memory.shutil, "disk_usage", silent)
    require_space([(tmp_path, 10**18)])


def test_the_estimate_covers_what_is_written(tmp_path):
    result = make_result(tmp_path, shape=(48, 48, 8), ensemble=True)
    written = write_run(result, tmp_path / "out", bids_dir=tmp_path / "bids", dataset_links={})
    size = sum(path.stat().st_size for path in written)
    estimate = estimated_size(result.series.signals.shape, bvals=result.averaged.bvals.size, spread=True)
    assert size < estimate
    assert sum(path.stat().st_size for path in written if path.suffix == ".gz") > 0.5 * (estimate - 5 * MB)


def test_names_that_would_be_too_long_are_refused_before_the_work(tmp_path):
    label = "a" * 180
    run = DwiRun({"sub": "01", "acq": label}, (SourceImage(tmp_path / "a.nii.gz", None, None),))
    require_room(run, tmp_path, (3, 3, 2, 5), bvals=4)
    with pytest.raises(DataError, match="shorten a label"):
        require_room(
            DwiRun({"sub": "01", "acq": label + "a" * 50}, run.parts), tmp_path, (3, 3, 2, 5), bvals=4
        )


# The whole app


def test_a_disk_that_is_too_small_is_noticed_before_the_estimation(tmp_path, app, monkeypatch):
    made = dataset(tmp_path / "ds")
    estimated = []
    monkeypatch.setattr("sicnn_app.lsq.estimate.estimate", lambda *args, **kwargs: estimated.append(args))
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    call = app.quick(made, tmp_path / "out", *STEPS)
    assert call.code == 73
    assert f"{tmp_path / 'out'}: about 0.005" in call.text and "0.001 GB are free" in call.text
    assert estimated == []


def test_a_limit_that_is_too_low_is_75_and_says_what_is_needed(tmp_path, app):
    call = app.quick(dataset(tmp_path / "ds"), tmp_path / "out", *STEPS, "--mem", "0.01")
    assert call.code == 75
    assert re.search(r"about \S+ GB of memory are needed.*--mem allows 0.01: allow more", call.text)


@pytest.mark.parametrize("steps", [STEPS, CORRECTIONS], ids=["plain", "corrected"])
def test_maps_are_the_same_from_disk_and_from_memory(tmp_path, app, monkeypatch, steps):
    made = dataset(tmp_path / "ds", shape=(20, 18, 3))
    assert app.quick(made, tmp_path / "memory", *steps).code == 0
    used = []
    create = DiskArray.create.__func__

    def spy(cls, shape, folder):
        used.append(shape)
        return create(cls, shape, folder)

    monkeypatch.setattr(DiskArray, "create", classmethod(spy))
    monkeypatch.setattr("sicnn_app.pipeline.forecast.plan_memory", low_plan)
    call = app.quick(made, tmp_path / "disk", *steps)
    assert call.code == 0, call.text
    # The series as loaded, and as denoising, unringing and motion correction make it.
    assert [shape for shape in used if shape[3] == 8] == [(20, 18, 3, 8)] * (1 if steps == STEPS else 4)
    images = sorted(path.relative_to(tmp_path / "memory") for path in (tmp_path / "memory").rglob("*.nii.gz"))
    assert len(images) == 9
    for image in images:
        assert (tmp_path / "disk" / image).read_bytes() == (tmp_path / "memory" / image).read_bytes()
    table = (tmp_path / "disk/sub-01/dwi/sub-01_desc-ivim_qc.tsv").read_text().splitlines()
    row = dict(zip(*(line.split("\t") for line in table), strict=True))
    assert 0.05 < float(row["peak_memory"]) < 20


def low_plan(shape, **options):
    """The plan of a machine where only the series on disk fits."""
    return memory.MemoryPlan(True, 0, 1)


def peak_of(bids: Path, out: Path, *options: str) -> float:
    """Peak memory, GB, of a process of its own that runs the app."""
    script = (
        "import sys; from sicnn_app.cli.main import main; from sicnn_app.system.memory import peak_memory; "
        "code = main(sys.argv[1:]); print(f'peak {peak_memory()}'); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(bids), str(out), *LSQ, *options],
        capture_output=True, text=True, env=environment(), cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return float(re.search(r"^peak (\S+)$", done.stdout, re.MULTILINE)[1])


@pytest.mark.slow
def test_the_limit_is_kept_and_the_maps_are_the_same(tmp_path):
    """96 x 96 x 12 voxels and 1200 volumes, 531 MB as float32, in a process allowed 0.8 GB."""
    limit = 0.8
    big_image(tmp_path / "ds", (96, 96, 12, 1200))
    assert peak_of(tmp_path / "ds", tmp_path / "free") > limit + 0.1
    assert peak_of(tmp_path / "ds", tmp_path / "limited", "--mem", f"{limit}") < limit
    images = sorted(path.relative_to(tmp_path / "free") for path in (tmp_path / "free").rglob("*.nii.gz"))
    assert len(images) == 9
    for image in images:
        assert (tmp_path / "limited" / image).read_bytes() == (tmp_path / "free" / image).read_bytes()

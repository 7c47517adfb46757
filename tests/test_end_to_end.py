"""The real command in processes of its own, on the example datasets: as a user or a container calls it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app_processes import TIMEOUT
from app_runs import (
    EXAMPLES,
    QUICK,
    ROOT,
    TINY_TRAINING,
    as_user,
    command,
    dataset,
    environment,
    execute,
    files,
    values,
)
from bids.layout import BIDSLayout
from validator import validator_errors

from sicnn_app.derivatives.dataset import pybids_config_path
from sicnn_app.system.locks.folders import MADE_FILE

NOBODY = 65534
STRANGER = 4321
ENDLESS_TRAINING = ("--device", "cpu", "--method", "cnn", "--max-iterations", "100000")
MAPS = ("f", "d", "dstar", "s0", "rmse")
STEMS = {
    "abdomen": ["sub-01/dwi/sub-01"],
    "brain": ["sub-01/ses-1/dwi/sub-01_ses-1", "sub-01/ses-2/dwi/sub-01_ses-2"],
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What the least-squares method makes of both examples, and how the calls ended.

    The brain is processed in an empty environment: nothing may depend on one.
    """
    made = {}
    for name in STEMS:
        out = tmp_path_factory.mktemp("out") / name
        before = files(EXAMPLES / name)
        env = {} if name == "brain" else environment()
        call = execute(EXAMPLES / name, out, "participant", *QUICK, env=env, cwd=ROOT)
        assert files(EXAMPLES / name) == before, "the input was changed"
        made[name] = (out, call)
    return made


def map_bytes(out: Path) -> dict[str, bytes]:
    return {name: content for name, content in files(out).items() if name.endswith(".nii.gz")}


def tissue_medians(example: str, stem: str, out: Path, label: str) -> dict[str, tuple[float, float]]:
    """Median of a map and of its truth over each tissue of at least 40 voxels, by the tissue's name."""
    truth = EXAMPLES / example / "derivatives" / "truth"
    labels = np.asarray(nib.load(truth / f"{stem}_desc-tissues_dseg.nii.gz").dataobj)
    rows = [
        line.split("\t") for line in (truth / f"{stem}_desc-tissues_dseg.tsv").read_text().splitlines()[1:]
    ]
    expected = np.asarray(nib.load(truth / f"{stem}_model-ivim_param-{label}_dwimap.nii.gz").dataobj)
    found = values(out, stem, label)
    medians = {}
    for code, name, *_ in rows:
        here = (labels == int(code)) & np.isfinite(found)
        if here.sum() >= 40:
            medians[name] = (float(np.median(found[here])), float(np.median(expected[here])))
    return medians


# outputs


@pytest.mark.parametrize("name", sorted(STEMS))
def test_the_examples_are_processed_completely(outputs, name):
    out, call = outputs[name]
    assert call.code == 0, call.text
    assert call.err.count("Traceback") == 0
    assert not (out / ".work").exists()
    top = {path.name for path in out.iterdir()}
    reports = {f"{stem.rpartition('/')[2]}.html" for stem in STEMS[name]}
    shared = {
        "dataset_description.json",
        "README.md",
        "CITATION.md",
        ".bidsignore",
        ".sicnn-app",
        "descriptions.tsv",
        "pybids_config.json",
        "logs",
    }
    assert top == {*shared, "sub-01", *reports}
    for stem in STEMS[name]:
        source = nib.load(EXAMPLES / name / f"{stem}_dwi.nii.gz")
        for label in MAPS:
            image = nib.load(out / f"{stem}_model-ivim_param-{label}_dwimap.nii.gz")
            assert image.shape == source.shape[:3]
            assert np.array_equal(image.affine, source.affine)
            assert image.get_data_dtype() == np.float32
    for report in reports:
        assert "data:image/png;base64," in (out / report).read_text()


@pytest.mark.parametrize("name", sorted(STEMS))
def test_the_official_validator_finds_no_error(outputs, name):
    assert validator_errors(outputs[name][0]) == set()


def test_pybids_finds_every_map_by_its_entities(outputs):
    out, _ = outputs["brain"]
    layout = BIDSLayout(out, validate=False, config=["bids", "derivatives", str(pybids_config_path())])
    for session in "12":
        for label in MAPS:
            found = layout.get(
                subject="01", session=session, model="ivim", param=label, suffix="dwimap", extension=".nii.gz"
            )
            assert [image.filename for image in found] == [
                f"sub-01_ses-{session}_model-ivim_param-{label}_dwimap.nii.gz"
            ]
            assert np.isfinite(found[0].get_image().get_fdata()).any()


def test_least_squares_recovers_the_truth_of_the_abdomen(outputs):
    """Organs of F 0.1 to 0.3 at SNR 20 per volume: F within 0.08, D within 20 %.

    Noise of one averaged signal is 4 to 10 % of S0 in the organs; over 40 voxels and more the median
    scatters by a sixth of a voxel's noise, and the rest allowed is the bias of a bounded fit.
    """
    out, _ = outputs["abdomen"]
    organs = ("liver", "kidney_cortex", "spleen", "pancreas")
    f, d = (tissue_medians("abdomen", STEMS["abdomen"][0], out, label) for label in ("f", "d"))
    assert set(organs) & set(f), "no organ is large enough"
    for organ in set(organs) & set(f):
        assert f[organ][0] == pytest.approx(f[organ][1], abs=0.08), organ
        assert d[organ][0] == pytest.approx(d[organ][1], rel=0.2), organ


# determinism


def test_least_squares_gives_the_same_bytes_again(outputs, tmp_path):
    before, _ = outputs["brain"]
    call = execute(EXAMPLES / "brain", tmp_path / "out", "participant", *QUICK, "--session-id", "ses-2")
    assert call.code == 0
    again = map_bytes(tmp_path / "out")
    assert len(again) == 9
    assert again == {name: content for name, content in map_bytes(before).items() if "ses-2" in name}


@pytest.mark.slow
def test_training_gives_the_same_bytes_again(tmp_path):
    for name in "ab":
        call = execute(EXAMPLES / "abdomen", tmp_path / name, "participant", *TINY_TRAINING)
        assert call.code == 0, call.text
    first, second = map_bytes(tmp_path / "a"), map_bytes(tmp_path / "b")
    assert len(first) == 12
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STEMS))
def test_the_main_job_recovers_the_truth_and_is_valid(tmp_path, name):
    """The defaults, on the CPU: F within 0.05 and D within 15 % in tissue with perfusion, D* within half.

    The bounds are those within which a reader of a map would call an organ's value right: two
    organs of this phantom differ by 0.05 in F and 15 % in D or more.
    """
    out = tmp_path / "out"
    call = execute(EXAMPLES / name, out, "participant", "--device", "cpu")
    assert call.code == 0, call.text
    assert validator_errors(out) == set()
    tissues = {
        "abdomen": ("liver", "kidney_cortex", "spleen", "pancreas"),
        "brain": ("white_matter", "cortical_grey_matter"),
    }[name]
    for stem in STEMS[name]:
        f, d, dstar = (tissue_medians(name, stem, out, label) for label in ("f", "d", "dstar"))
        for tissue in set(tissues) & set(f):
            assert f[tissue][0] == pytest.approx(f[tissue][1], abs=0.05), tissue
            assert d[tissue][0] == pytest.approx(d[tissue][1], rel=0.15), tissue
            if f[tissue][1] > 0.1:
                assert dstar[tissue][0] == pytest.approx(dstar[tissue][1], rel=0.5), tissue


# signals


def stopped(tmp_path: Path, number: signal.Signals) -> tuple[int, str, Path]:
    """Stop a call in the middle of its training; returns code, what it said and its output."""
    made = dataset(tmp_path / "bids", shape=(24, 20, 1))
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(made.root, out, "participant", *ENDLESS_TRAINING, "-v"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(OMP_NUM_THREADS="1"),
        # A shell that runs tests in the background makes its children ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    said = ""
    for line in process.stdout:
        said += line
        if "of at most" in line:
            process.send_signal(number)
            break
    rest, _ = process.communicate(timeout=TIMEOUT)
    return process.returncode, said + rest, out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_the_call_cleanly(tmp_path, number, code):
    returned, said, out = stopped(tmp_path, number)
    assert returned == code, said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    # Nothing but the checkpoint from which the same command goes on.
    assert {path.name for path in (out / ".work").rglob("*") if path.is_file()} <= {"training.pt", MADE_FILE}
    assert not list(out.rglob("*.nii.gz"))


# surroundings


def run_as(number: int, argv: list[str], **options) -> tuple[int, str]:
    """Code and words of a command that another user calls."""
    done = subprocess.run([*as_user(number), *argv], capture_output=True, text=True, check=False, **options)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("existing", [False, True])
def test_a_read_only_output_is_73(tmp_path, existing):
    made = dataset(tmp_path / "bids")
    parent = tmp_path / "locked"
    out = parent / "out"
    (out if existing else parent).mkdir(parents=True)
    locked = [folder for folder in (out, parent) if folder.exists()]
    for folder in locked:
        folder.chmod(0o555)
    try:
        code, said = run_as(NOBODY, command(made.root, out, "participant", *QUICK), env=environment())
        assert list(parent.rglob("*")) == ([out] if existing else [])
    finally:
        for folder in locked:
            folder.chmod(0o755)
    assert code == 73, said
    assert said.count("\n") <= 2
    assert str(out) in said


def test_no_space_in_the_middle_of_a_run_is_73_and_leaves_nothing_half_written(tmp_path):
    made = dataset(tmp_path / "bids", shape=(40, 40, 2))
    out = tmp_path / "out"
    limit = 30_000
    call = execute(
        made.root,
        out,
        "participant",
        *QUICK,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert call.code == 73, call.text
    assert "_desc-preproc_dwi.nii.gz" in call.err
    assert "Traceback" not in call.text
    assert not (out / "sub-01" / "dwi").exists()
    assert not (out / ".work").exists()


@pytest.fixture
def public_folder():
    """A folder that every user can reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_a_user_without_account_home_and_tmp_writes_files_of_its_own(public_folder):
    made = dataset(public_folder / "bids")
    out = public_folder / "out"
    out.mkdir()
    if os.getuid() == 0:
        os.chown(out, STRANGER, STRANGER)
    for path in [made.root, *made.root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    # Python looks for temporary folders in /tmp, too, which this machine cannot do without.
    code = (
        "import sys, tempfile\n"
        "tempfile._candidate_tempdir_list = lambda: ['/proc']\n"
        "from sicnn_app.cli.main import main\nsys.exit(main())"
    )
    returned, said = run_as(
        STRANGER,
        [sys.executable, "-c", code, str(made.root), str(out), "participant", *QUICK],
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
    )
    assert returned == 0, said
    assert "atplotlib" not in said
    assert {path.stat().st_uid for path in out.rglob("*")} == {out.stat().st_uid}
    assert (out / "sub-01.html").exists()
    assert not (out / ".work").exists()


@pytest.mark.slow
def test_two_jobs_may_write_into_one_output(tmp_path):
    made = dataset(tmp_path / "bids", "sub-01", "sub-02")
    out = tmp_path / "out"
    jobs = [
        subprocess.Popen(
            command(made.root, out, "participant", *QUICK, "--participant-label", label, "--clean-workdir"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
        )
        for label in ("01", "02")
    ]
    said = [job.communicate(timeout=TIMEOUT)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    assert sorted(path.name for path in out.glob("*.html")) == ["sub-01.html", "sub-02.html"]
    assert not (out / ".work").exists()
    assert validator_errors(out) == set()

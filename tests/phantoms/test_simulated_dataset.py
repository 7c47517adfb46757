import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sicnn_app.derivatives.atomic import WORK_FOLDER
from sicnn_app.errors import OutputError, UsageError
from sicnn_app.phantoms.acquire import Protocol
from sicnn_app.phantoms.dataset import SimulationSettings, write_dataset
from sicnn_app.phantoms.disturbances import Disturbances
from sicnn_app.phantoms.truths import Truth

BVALS = (0.0, 12.5, 50.0, 400.0)


def settings(**options):
    given = {"preset": "abdomen", "protocol": Protocol(BVALS), "snr": 20.0, "shape": (20, 17, 2), **options}
    return SimulationSettings(**given)


def write(out, **options):
    return write_dataset(out, settings(**options), command="sicnn-simulate OUT_BIDS")


def contents(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def validator():
    beside = Path(sys.executable).with_name("bids-validator-deno")
    return str(beside) if beside.exists() else shutil.which("bids-validator-deno")


def test_same_settings_give_the_same_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        write(tmp_path / name, seed=seed, sessions=2)
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again
    image = "sub-01/ses-1/dwi/sub-01_ses-1_dwi.nii.gz"
    assert first[image] != other[image]


def test_more_subjects_and_sessions_leave_the_others_as_they_are(tmp_path):
    write(tmp_path / "small", subjects=1, sessions=1)
    write(tmp_path / "large", subjects=3, sessions=2)
    small, large = contents(tmp_path / "small"), contents(tmp_path / "large")
    shared = [name for name in small if name.endswith(".nii.gz")]
    assert len(shared) == 7
    assert all(small[name] == large[name] for name in shared)


def test_sessions_share_the_body_and_subjects_do_not(tmp_path):
    write(tmp_path / "ds", subjects=2, sessions=2)

    def load(subject, session, rest, root=tmp_path / "ds" / "derivatives" / "truth"):
        stem = f"sub-{subject}_ses-{session}"
        return nib.load(root / f"sub-{subject}/ses-{session}/dwi/{stem}_{rest}").get_fdata()

    truth = "model-ivim_param-d_dwimap.nii.gz"
    np.testing.assert_array_equal(load("01", 1, truth), load("01", 2, truth))
    assert not np.array_equal(load("01", 1, truth), load("02", 1, truth), equal_nan=True)
    raw = {"rest": "dwi.nii.gz", "root": tmp_path / "ds"}
    assert not np.array_equal(load("01", 1, **raw), load("01", 2, **raw))


def test_between_subject_variation_can_be_switched_off(tmp_path):
    write(tmp_path / "ds", subjects=2, subject_variation=0.0)
    tables = sorted((tmp_path / "ds").rglob("*_dseg.tsv"))
    assert len(tables) == 2
    assert tables[0].read_text() == tables[1].read_text()
    assert "\t0.2305\t0.00109\t0.07\t" in tables[0].read_text()


def test_without_noise_the_images_are_the_equation_on_the_truth(tmp_path):
    write(tmp_path / "ds", snr=np.inf)
    stem = "sub-01/dwi/sub-01_"
    image = nib.load(tmp_path / "ds" / f"{stem}dwi.nii.gz")
    truth = tmp_path / "ds" / "derivatives" / "truth"
    f, d, dstar, s0 = (
        nib.load(truth / f"{stem}model-ivim_param-{name}_dwimap.nii.gz").get_fdata()[..., None]
        for name in ("f", "d", "dstar", "s0")
    )
    mask = nib.load(truth / f"{stem}desc-body_mask.nii.gz").get_fdata() > 0
    b = np.array(BVALS)
    expected = s0 * (f * np.exp(-b * dstar) + (1 - f) * np.exp(-b * d))
    np.testing.assert_array_equal(np.isnan(s0[..., 0]), ~mask)
    np.testing.assert_allclose(image.get_fdata()[mask], expected[mask], rtol=1e-5)
    assert (image.get_fdata()[~mask] == 0).all()


@pytest.mark.parametrize("snr", [5.0, 40.0])
def test_stored_images_have_the_noise_of_the_sidecar(tmp_path, snr):
    write(tmp_path / "ds", snr=snr, protocol=Protocol(BVALS, repeats=8), shape=(40, 36, 4))
    base = tmp_path / "ds" / "sub-01" / "dwi" / "sub-01_dwi"
    truth = tmp_path / "ds" / "derivatives" / "truth" / "sub-01" / "dwi"
    mask = nib.load(truth / "sub-01_desc-body_mask.nii.gz").get_fdata() > 0
    s0 = nib.load(truth / "sub-01_model-ivim_param-s0_dwimap.nii.gz").get_fdata()
    sigma = json.loads(base.with_suffix(".json").read_text())["SimulatedSigma"]
    image = nib.load(base.with_suffix(".nii.gz"))
    background = image.get_fdata()[~mask]
    assert image.get_data_dtype() == np.int16
    assert s0[mask].mean() / sigma == pytest.approx(snr, rel=1e-5)
    assert np.sqrt((background**2).mean() / 2) == pytest.approx(sigma, rel=0.01)


def test_disturbances_stand_beside_the_other_truths(tmp_path):
    """The images without noise are the true signals times what the truth says was done to them."""
    disturbances = Disturbances(pulsation=0.1, losses=1.0)
    write(tmp_path / "spoilt", snr=np.inf, disturbances=disturbances)
    write(tmp_path / "plain", snr=np.inf)
    spoilt, plain = (
        nib.load(tmp_path / name / "sub-01/dwi/sub-01_dwi.nii.gz").get_fdata() for name in ("spoilt", "plain")
    )
    truth = tmp_path / "spoilt/derivatives/truth/sub-01/dwi"
    pulsation, lost = (
        nib.load(truth / f"sub-01_desc-{name}_dwimap.nii.gz").get_fdata() for name in ("pulsation", "lost")
    )
    assert lost.max() > 0.2
    np.testing.assert_allclose(spoilt, plain * pulsation * (1 - lost), rtol=1e-4, atol=1e-3)
    told = json.loads((tmp_path / "spoilt/sub-01/dwi/sub-01_dwi.json").read_text())["SimulatedTruth"]
    assert told == {"pulsation": 0.1, "losses": 1.0}
    assert not list((tmp_path / "plain").rglob("*_dwimap.nii.gz"))[4:]


def test_noise_that_varies_has_a_map(tmp_path):
    write(
        tmp_path / "ds", snr=30.0, protocol=Protocol(BVALS, b0_repeats=60), disturbances=Disturbances(0, 0, 3)
    )
    truth = tmp_path / "ds/derivatives/truth/sub-01/dwi"
    sigma = nib.load(truth / "sub-01_param-sigma_dwimap.nii.gz").get_fdata()
    s0 = nib.load(truth / "sub-01_model-ivim_param-s0_dwimap.nii.gz").get_fdata()
    image = nib.load(tmp_path / "ds/sub-01/dwi/sub-01_dwi.nii.gz").get_fdata()[..., :60]
    bright = s0 > 5 * sigma
    assert bright.sum() > 100
    assert (image.std(axis=-1)[bright] / sigma[bright]).mean() == pytest.approx(1, abs=0.02)
    assert np.ptp(sigma[bright]) > 0.5 * sigma.min()


def test_lesions_and_parts_are_told_in_the_truth(tmp_path):
    write(tmp_path / "ds", shape=(30, 26, 2), truth=Truth(anatomy="random", partial_volume=2, lesions=3))
    truth = tmp_path / "ds/derivatives/truth/sub-01/dwi"
    labels = nib.load(truth / "sub-01_desc-tissues_dseg.nii.gz").get_fdata()
    purity = nib.load(truth / "sub-01_desc-purity_dwimap.nii.gz").get_fdata()
    last = (truth / "sub-01_desc-tissues_dseg.tsv").read_text().splitlines()[-1].split("\t")
    assert last[:2] == ["99", "lesion"]
    assert last[3:7] == ["n/a"] * 4
    assert 6 <= (labels == 99).sum() <= 12
    assert (purity[labels == 99] == 1).all()
    assert 0 < purity.min() < 1
    readme = (tmp_path / "ds/README.md").read_text()
    assert "partial volume 2, lesions 3" in readme
    assert "differ from those drawn for it" in readme


def test_gradient_table_fits_the_image_and_keeps_odd_bvals(tmp_path):
    protocol = Protocol((0.0, 33.333333, 5.0), repeats=2, b0_repeats=3, directions=4)
    write(tmp_path / "ds", protocol=protocol)
    base = tmp_path / "ds" / "sub-01" / "dwi" / "sub-01_dwi"
    bvals = np.loadtxt(base.with_suffix(".bval"))
    bvecs = np.loadtxt(base.with_suffix(".bvec"))
    assert nib.load(base.with_suffix(".nii.gz")).shape == (20, 17, 2, 19)
    assert bvecs.shape == (3, 19)
    np.testing.assert_array_equal(bvals, [0.0] * 3 + [33.333333] * 8 + [5.0] * 8)


def test_inherited_table_stands_once_at_the_top(tmp_path):
    write(tmp_path / "ds", inherit_bval=True, subjects=2, sessions=2)
    assert [path.name for path in sorted((tmp_path / "ds").rglob("*.bv*"))] == ["dwi.bval", "dwi.bvec"]
    assert json.loads((tmp_path / "ds" / "dwi.json").read_text())["BodyPart"] == "ABDOMEN"
    assert "BodyPart" not in json.loads((tmp_path / "ds/sub-02/ses-2/dwi/sub-02_ses-2_dwi.json").read_text())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"preset": "brain", "sessions": 2, "inherit_bval": True, "shape": (15, 18, 1)},
        {"snr": np.inf, "subjects": 2},
        {
            "truth": Truth(anatomy="random", partial_volume=2, lesions=2),
            "disturbances": Disturbances(0.1, 1.0, 2.0),
        },
    ],
    ids=["plain", "sessions-inherited", "noise-free", "everything"],
)
def test_the_bids_validator_finds_no_error(tmp_path, options):
    if validator() is None:
        pytest.skip("bids-validator-deno is not installed")
    write(tmp_path / "ds", **options)
    for root in (tmp_path / "ds", tmp_path / "ds" / "derivatives" / "truth"):
        done = subprocess.run([validator(), "--json", root], capture_output=True, text=True, check=False)
        issues = json.loads(done.stdout)["issues"]["issues"]
        assert [issue for issue in issues if issue["severity"] == "error"] == []
        assert done.returncode == 0


def test_overwrite_replaces_the_dataset_and_keeps_what_lies_beside(tmp_path):
    out = tmp_path / "ds"
    write(out, subjects=2, inherit_bval=True)
    other = out / "derivatives" / "other" / "map.txt"
    other.parent.mkdir()
    other.write_text("mine")
    write_dataset(out, settings(), command="again", overwrite=True)
    other.unlink()
    other.parent.rmdir()
    write_dataset(tmp_path / "fresh", settings(), command="again")
    assert contents(out) == contents(tmp_path / "fresh")


def test_a_folder_with_content_is_refused_and_left_alone(tmp_path):
    write(tmp_path / "ds")
    with pytest.raises(UsageError, match="--overwrite"):
        write(tmp_path / "ds")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "dataset_description.json").write_text('{"Name": "real data", "BIDSVersion": "1.9.0"}')
    with pytest.raises(UsageError, match="is not a dataset of sicnn-simulate"):
        write_dataset(foreign, settings(), command="", overwrite=True)
    assert [path.name for path in foreign.iterdir()] == ["dataset_description.json"]


@pytest.mark.parametrize("name", ["sub-mine/dwi/sub-mine_dwi.nii.gz", "sub-01/anat/notes.txt", "README.md"])
def test_files_that_somebody_added_or_changed_are_never_replaced(tmp_path, name):
    out = tmp_path / "ds"
    write(out)
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text("mine")
    before = contents(out)
    with pytest.raises(OutputError, match="not as this app wrote it"):
        write_dataset(out, settings(), command="again", overwrite=True)
    assert contents(out) == before


def test_remains_of_a_killed_run_do_not_matter(tmp_path):
    out = tmp_path / "ds"
    left = out / WORK_FOLDER / "write-here-1-abcdefgh"
    left.mkdir(parents=True)
    write(out)
    assert (out / "sub-01").is_dir()


def test_a_full_disk_leaves_nothing_under_a_final_name(tmp_path, monkeypatch):
    def full(image, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(nib.Nifti1Image, "to_filename", full)
    with pytest.raises(OutputError, match="No space left"):
        write(tmp_path / "ds")
    assert list((tmp_path / "ds").iterdir()) == []


@pytest.mark.parametrize(
    "options", [{"subjects": 0}, {"sessions": -1}, {"seed": -1}, {"snr": 0.0}, {"snr": float("nan")}]
)
def test_refuses_settings_that_make_no_dataset(options):
    with pytest.raises(UsageError):
        settings(**options)

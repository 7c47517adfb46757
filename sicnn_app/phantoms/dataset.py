"""Write simulated subjects as a BIDS dataset, with the true maps as a derivatives dataset."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from sicnn_app import __version__
from sicnn_app.derivatives.atomic import WORK_FOLDER, StagedFiles, scratch_folder
from sicnn_app.derivatives.names import dwi_folder, map_ending, mask_ending, session_name
from sicnn_app.derivatives.written import WrittenRecord, require_free
from sicnn_app.errors import OutputError, UsageError
from sicnn_app.files import parse_json, read_regular
from sicnn_app.ivim.parameters import MAPS
from sicnn_app.phantoms.acquire import SNR_DEFINITION, Acquisition, Protocol, acquire_series, noise_sigma
from sicnn_app.phantoms.disturbances import UNDISTURBED, Disturbances
from sicnn_app.phantoms.phantom import PLAIN, S0_SCALE, Phantom, make_phantom
from sicnn_app.phantoms.tissues import DRAWN, VALUES, bounds_of
from sicnn_app.phantoms.truths import ANATOMIES, Truth
from sicnn_app.system.locks.leftovers import remove_leftovers

BIDS_VERSION = "1.11.1"
GENERATOR = "sicnn-simulate"
TRUTH = Path("derivatives") / "truth"

UNIT = "simulation"
"""Name of the record of what was written."""

OWN_NAMES = ("dataset_description.json", "README.md", "participants.tsv", "dwi.*", "sub-*", TRUTH.as_posix())
"""Parts of a dataset of this command."""

QUANTISATION = 16
"""Image steps per sigma: rounding adds 1/(12 * 16^2) = 0.03 % to the noise variance."""

MASK_DESC = {"abdomen": "body", "brain": "brain"}
ACQUISITION = {
    "abdomen": {"BodyPart": "ABDOMEN", "EchoTime": 0.06, "RepetitionTime": 4.0},
    "brain": {"BodyPart": "BRAIN", "EchoTime": 0.08, "RepetitionTime": 6.0},
}
"""Metadata of a typical acquisition; the simulation has no relaxation and does not use the times."""

TISSUE_COLUMNS = {
    "f": {"Description": "Mean perfusion fraction of this subject's tissue"},
    "d": {"Description": "Mean diffusion coefficient of this subject's tissue", "Units": "mm^2/s"},
    "dstar": {"Description": "Mean pseudo-diffusion coefficient of this subject's tissue", "Units": "mm^2/s"},
    "s0": {"Description": "Brightness at b = 0 relative to 1: chosen, not measured"},
    "source": {
        "Description": "Where the values of F, D and D* were taken from, before the subject's variation"
    },
}
"""Columns of the table of tissues beyond those of BIDS."""

TRUTH_BIDSIGNORE = "*_dwimap.*\n"
"""Parameter maps have no name in the released BIDS: the suffix is that of BEP016."""

DISTURBANCE_MAPS: dict[str, tuple[str, dict[str, str]]] = {
    "sigma": (
        "param-sigma_dwimap",
        {"Description": "Standard deviation of one channel of the noise", "Units": "arbitrary"},
    ),
    "pulsation": (
        "desc-pulsation_dwimap",
        {"Description": "Factor of the true signal by pulsation, volume by volume", "Units": "1"},
    ),
    "lost": (
        "desc-lost_dwimap",
        {"Description": "Share of the signal that is lost to motion, volume by volume", "Units": "1"},
    ),
}
"""Attribute of an acquisition to ending and sidecar of the image of it."""


@dataclass(frozen=True)
class SimulationSettings:
    """Everything that decides the content of a dataset; raises UsageError for what makes none.

    Attributes
    ----------
    snr : float
        See :data:`sicnn_app.phantoms.acquire.SNR_DEFINITION`.
    sessions : int
        0: no session level. Sessions of a subject show the same body with other noise.
    texture, subject_variation : float
        See ``texture`` and ``tissue_variation`` of :func:`sicnn_app.phantoms.phantom.make_phantom`.
    inherit_bval : bool
        One gradient table at the top of the dataset instead of one beside every image.
    truth : Truth
        Kind of anatomy, values of tissues, and what else makes it harder.
    disturbances : Disturbances
        What spoils the acquisition besides noise.
    """

    preset: str
    protocol: Protocol
    snr: float
    shape: tuple[int, int, int]
    subjects: int = 1
    sessions: int = 0
    seed: int = 0
    texture: float = 0.1
    subject_variation: float = 0.05
    inherit_bval: bool = False
    truth: Truth = PLAIN
    disturbances: Disturbances = UNDISTURBED

    def __post_init__(self) -> None:
        if not self.snr > 0:
            raise UsageError(f"--snr must be above 0 (inf: no noise), not {self.snr:g}")
        if self.subjects < 1:
            raise UsageError(f"--subjects must be 1 or more, not {self.subjects}")
        if self.sessions < 0:
            raise UsageError(f"--sessions must be 0 (no session level) or more, not {self.sessions}")
        if self.seed < 0:
            raise UsageError(f"--random-seed must be 0 or more, not {self.seed}")

    def further(self) -> dict[str, Any]:
        """Choices of truth and disturbances that are not as usual, by name."""
        pairs = ((self.truth, PLAIN), (self.disturbances, UNDISTURBED))
        return {
            name: value
            for chosen, usual in pairs
            for name, value in asdict(chosen).items()
            if value != getattr(usual, name)
        }


def write_dataset(
    out: Path, settings: SimulationSettings, *, command: str, overwrite: bool = False
) -> list[Path]:
    """Write a simulated BIDS dataset and its truth below ``derivatives/truth``; returns the files, sorted.

    The dataset grows in a hidden folder inside ``out`` and gets its final names at the
    end, ``dataset_description.json`` last.

    Parameters
    ----------
    out : Path
        Made if missing; must be empty otherwise.
    command : str
        Command line to state in the README.
    overwrite : bool
        Replace a dataset that this function wrote before; files beside it, such as other
        derivatives, stay. A folder with any other content is refused, and so is a dataset in which
        somebody added or changed files.

    Raises
    ------
    UsageError
        When ``out`` holds something that may not be replaced.
    OutputError
        When it cannot be written, or holds files that this function did not write.
    """
    _check_replaceable(out, overwrite)
    remove_leftovers(out / WORK_FOLDER)
    record = WrittenRecord(out, UNIT)
    earlier = _earlier_files(out)
    require_free(record.foreign(earlier))
    try:
        with scratch_folder(out) as folder:
            made = folder / "dataset"
            _write_raw(made, settings, command)
            staged = StagedFiles(folder)
            # The description of the dataset comes last: without it there is none.
            last = made / "dataset_description.json"
            for path in sorted(made.rglob("*"), key=lambda path: (path == last, path)):
                if path.is_file():
                    staged.add_file(path, out / path.relative_to(made))
            files = sorted(staged.publish(record))
    except OSError as error:
        raise OutputError(
            f"{out}: cannot write the dataset ({error.strerror or error}); name a writable folder"
        ) from error
    for folder in sorted({path.parent for path in earlier}, reverse=True):
        # One that is not empty now holds what was written, or what somebody put there meanwhile.
        with suppress(OSError):
            folder.rmdir()
    return files


def _earlier_files(out: Path) -> list[Path]:
    """Every file that an earlier dataset consists of, as far as names tell; links are not followed."""
    found = []
    for place in (path for pattern in OWN_NAMES for path in out.glob(pattern)):
        if place.is_symlink() or not place.is_dir():
            found.append(place)
        for folder, _, names in os.walk(place):
            found += [Path(folder) / name for name in names]
    return found


def _check_replaceable(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; name a folder for the dataset")
    try:
        content = [path for path in out.iterdir() if path.name != WORK_FOLDER] if out.exists() else []
    except OSError as error:
        raise OutputError(f"{out}: cannot be read ({error.strerror}); name another folder") from error
    if not content:
        return
    if not overwrite:
        raise UsageError(f"{out}: is not empty; name another folder or give --overwrite")
    try:
        description = parse_json(read_regular(out / "dataset_description.json"))
        ours = description["GeneratedBy"][0]["Name"] == GENERATOR
    except (OSError, ValueError, LookupError, TypeError):
        ours = False
    if not ours:
        raise UsageError(
            f"{out}: is not a dataset of {GENERATOR}, which --overwrite may replace; name another folder"
        )


def _write_raw(root: Path, settings: SimulationSettings, command: str) -> None:
    """Write raw dataset and truth."""
    bvals, bvecs = settings.protocol.gradient_table()
    table = {
        ".bval": " ".join(np.format_float_positional(b, trim="-") for b in bvals) + "\n",
        ".bvec": "".join(" ".join(f"{value:.6g}" for value in row) + "\n" for row in bvecs.T),
    }
    truth = root / TRUTH
    _write_json(root / "dataset_description.json", _description(settings, "raw", command))
    _write_json(truth / "dataset_description.json", _description(settings, "derivative", command))
    _write_text(truth / ".bidsignore", TRUTH_BIDSIGNORE)

    subjects = [f"{number + 1:02d}" for number in range(settings.subjects)]
    sessions: list[str | None] = [str(number + 1) for number in range(settings.sessions)] or [None]
    names = "".join(f"sub-{name}\n" for name in subjects)
    _write_text(root / "participants.tsv", f"participant_id\n{names}")
    common = {
        **ACQUISITION[settings.preset],
        "Manufacturer": "none (simulated)",
        "SimulatedSNR": settings.snr if np.isfinite(settings.snr) else "infinite",
        "SimulatedSNRDefinition": SNR_DEFINITION,
        "SimulatedTexture": settings.texture,
        "SimulatedSubjectVariation": settings.subject_variation,
    }
    if further := settings.further():
        common["SimulatedTruth"] = further
    if settings.inherit_bval:
        _write_beside(root / "dwi", table, common)
        table, common = {}, {}

    for number, subject in enumerate(subjects):
        # A seed of its own for every subject and session: adding more leaves the others as they are.
        anatomy_seed = [settings.seed, number]
        phantom = make_phantom(
            settings.preset,
            settings.shape,
            seed=anatomy_seed,
            texture=settings.texture,
            tissue_variation=settings.subject_variation,
            truth=settings.truth,
        )
        sigma = noise_sigma(phantom, settings.snr)
        for index, session in enumerate(sessions):
            noise_seed = [*anatomy_seed, index + 1]
            folder = dwi_folder(Path(), subject, session)
            stem = session_name(subject, session)
            acquired = acquire_series(
                phantom, bvals, snr=settings.snr, seed=noise_seed, disturbances=settings.disturbances
            )
            own = {
                "SimulatedSigma": sigma,
                "SimulatedSubjectSeed": anatomy_seed,
                "SimulatedNoiseSeed": noise_seed,
            }
            base = root / folder / f"{stem}_dwi"
            _write_beside(base, table, {**common, **own})
            _write_signals(base.with_suffix(".nii.gz"), acquired.signals, phantom, sigma)
            _write_truth(truth, folder, stem, phantom, acquired)

    _write_text(root / "README.md", _dataset_readme(settings, command, phantom))
    _write_text(truth / "README.md", _truth_readme(settings))


def _description(settings: SimulationSettings, kind: str, command: str) -> dict:
    title = f"Simulated IVIM diffusion MRI of the {settings.preset}"
    generator = {"Name": GENERATOR, "Version": __version__, "Description": command}
    return {
        "Name": title if kind == "raw" else f"{title}: true maps",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": kind,
        "License": "CC0",
        "Authors": ["sicnn-app contributors"],
        "GeneratedBy": [generator],
        **({} if kind == "raw" else {"DatasetLinks": {"raw": "../.."}}),
    }


def _write_truth(truth: Path, folder: Path, stem: str, phantom: Phantom, acquired: Acquisition) -> None:
    """True maps, mask and tissue labels of one run; NaN in maps where there is no tissue."""
    source = {"Sources": [f"bids:raw:{(folder / f'{stem}_dwi.nii.gz').as_posix()}"]}

    def write(ending: str, data: np.ndarray, content: dict[str, Any]) -> Path:
        base = truth / folder / f"{stem}_{ending}"
        _write_json(base.with_suffix(".json"), content)
        _save(base.with_suffix(".nii.gz"), data, phantom)
        return base

    for spec in MAPS:
        if (values := getattr(phantom, spec.label, None)) is not None:
            write(
                map_ending(spec.label),
                np.where(phantom.mask, values, np.nan).astype(np.float32),
                {"Description": f"True value. {spec.description}", "Units": spec.unit, **source},
            )
    for attribute, (ending, content) in DISTURBANCE_MAPS.items():
        values = getattr(acquired, attribute)
        # Noise that is the same everywhere is a number in the sidecar of the images.
        if values is not None and np.ptp(values) > 0:
            write(ending, values.astype(np.float32), {**content, **source})
    if phantom.parts is not None:
        content = {"Description": "Share of a voxel that its tissue holds", "Units": "1"}
        write("desc-purity_dwimap", phantom.purity.astype(np.float32), {**content, **source})
    desc = MASK_DESC[phantom.preset]
    write(
        mask_ending(desc),
        phantom.mask.astype(np.uint8),
        {"Description": "Voxels that hold tissue", "Type": "Brain" if desc == "brain" else "ROI", **source},
    )
    base = write(
        "desc-tissues_dseg",
        phantom.labels.astype(np.uint8),
        {"Description": "Tissue of every voxel", **source, **TISSUE_COLUMNS},
    )
    columns = ("index", "name", "color", *TISSUE_COLUMNS)
    rows = [
        (t.code, t.name, t.color, *map(_cell, (t.f, t.d, t.dstar, t.s0)), t.source) for t in phantom.tissues
    ]
    lines = ("\t".join(map(str, row)) + "\n" for row in (columns, *rows))
    _write_text(base.with_suffix(".tsv"), "".join(lines))


def _cell(value: float) -> str:
    return f"{value:.6g}" if np.isfinite(value) else "n/a"


def _write_signals(path: Path, signals: np.ndarray, phantom: Phantom, sigma: float) -> None:
    """Write the series as 16-bit integers fine enough for the noise; as floats when there is none."""
    if sigma == 0:
        _save(path, signals.astype(np.float32), phantom)
        return
    step = float(np.float32(max(sigma / QUANTISATION, signals.max() / np.iinfo(np.int16).max)))
    steps = np.rint(signals / step).clip(0, np.iinfo(np.int16).max).astype(np.int16)
    _save(path, steps, phantom, step=step)


def _save(path: Path, data: np.ndarray, phantom: Phantom, *, step: float | None = None) -> None:
    """Write an image; with a step, the data are counts of it and the header says so."""
    image = nib.Nifti1Image(data, phantom.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(phantom.affine, code=1)
    image.set_qform(phantom.affine, code=1)
    if step is not None:
        # nibabel stores the array as it is when the header already has a slope.
        image.header.set_slope_inter(step, 0.0)
    image.to_filename(path)


def _write_beside(base: Path, texts: dict[str, str], sidecar: dict[str, Any]) -> None:
    _write_json(base.with_suffix(".json"), sidecar)
    for suffix, text in texts.items():
        _write_text(base.with_suffix(suffix), text)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    _write_text(path, json.dumps(content, indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _dataset_readme(settings: SimulationSettings, command: str, phantom: Phantom) -> str:
    size = " x ".join(f"{value:.4g}" for value in phantom.voxel_size)
    texture, variation = 100 * settings.texture, 100 * settings.subject_variation
    anatomy = ANATOMIES[settings.truth.anatomy]
    within = f"have a texture of {texture:g} % within a tissue: half of its variance is smooth,\n  half is"
    within += " independent from voxel to voxel"
    drawn = any(tissue.source == DRAWN for tissue in phantom.tissues)
    usual = "those drawn for it" if drawn else "the literature's"
    low, high = bounds_of(VALUES[settings.truth.values].ranges[settings.preset])["dstar"]
    choices = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.further().items())
    if choices:
        choices = f"- Besides: {choices}. `sicnn-simulate --help` says what each of them is.\n"
    return f"""# Simulated IVIM diffusion MRI: {settings.preset}

Nobody was scanned: {anatomy.made}, the signals follow
S(b) = S0 (F exp(-b D*) + (1 - F) exp(-b D)), and the noise is Rician. Made by

    {command}

The same command gives the same files with the same versions of the app and of NumPy.

- SNR {settings.snr:g}: {SNR_DEFINITION}.
  The sigma it means for each image is `SimulatedSigma` in its sidecar. Single tissues have more or less:
  their mean S0 is {S0_SCALE:g} times the `s0` in the table of tissues.
- F, D, D* and S0 {anatomy.within or within}. The tissues of a subject differ from {usual} by
  {variation:g} % (standard deviation). F stays in 0..1, D in 0..0.005 mm^2/s and D* in
  {low:g}..{high:g} mm^2/s.
- Sessions of one subject show the same body with other noise.
- Diffusion is isotropic: gradient directions differ in their noise only. Relaxation, motion and
  distortion are not simulated; `EchoTime` and `RepetitionTime` are typical values.
{choices}- Voxels of {size} mm, first axis towards the patient's left (LAS).

The true maps are the derivatives dataset `derivatives/truth`.
"""


PARTS_README = """\
- Voxels have parts: F is the share of blood in the signal at b = 0; D and D* are means over the parts,
  weighted by the signal of tissue and of blood at b = 0. They do not depend on the b-values and are not
  those of a fit. A voxel has the label of most of its parts; `*_desc-purity_dwimap.nii.gz` is their share.
"""
DISTURBANCES_README = "".join(
    f"- `*_{ending}.nii.gz`, where there is any: {content['Description'][0].lower()}"
    f"{content['Description'][1:]}.\n"
    for ending, content in DISTURBANCE_MAPS.values()
)


def _truth_readme(settings: SimulationSettings) -> str:
    further = PARTS_README if settings.truth.partial_volume > 1 else ""
    further += DISTURBANCES_README if settings.disturbances != UNDISTURBED else ""
    return f"""# True maps of the simulated {settings.preset}

- `*_param-{{f,d,dstar,s0}}_dwimap.nii.gz`: the maps the signals were computed from; NaN where there is
  no tissue. F is a fraction; D and D* (the full second exponent) are in mm^2/s; S0 in image units.
  D* has no meaning where F is close to 0, and D none where F is 1 (vessels): leave those voxels
  out when errors are computed.
{further}- `*_desc-{MASK_DESC[settings.preset]}_mask.nii.gz`: every voxel that holds tissue.
- `*_desc-tissues_dseg.nii.gz`: the tissues; the table beside it has the values of this subject's
  tissues and the source they were varied from. The relative brightness `s0` is chosen, not measured.
"""

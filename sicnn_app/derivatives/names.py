"""One grammar of the names of outputs, for all that writes, reads, plans, gathers or simulates them.

An output of a run is called ``<run>_<ending>``: the run by the entities of its source, the ending by what the
file holds. Reports and the files of the group lie at the top.
"""

from __future__ import annotations

import re
from pathlib import Path

from sicnn_app.bids.associate import LABEL, BidsName, parse_name
from sicnn_app.bids.derivative_datasets import PREPROCESSED, mask_label
from sicnn_app.errors import InternalError
from sicnn_app.formats import natural_key
from sicnn_app.ivim.carpet import MOST_PICTURES
from sicnn_app.ivim.parameters import PARAMETERS, SPECS, MapSpec, maps_of
from sicnn_app.ivim.run import DwiRun
from sicnn_app.steps import STEPS

FLAGS = "desc-ivimflags_dseg"
SERIES = f"desc-{PREPROCESSED}_dwi"
AVERAGED = "desc-averaged_dwi"
QUALITY = "desc-ivim_qc"
TRAINING = "desc-training_qc"
MOTION = "desc-motion_qc"
VOLUMES = "desc-volumes_qc"
REGIONS = "desc-regions_qc"
REGION_CODES = "desc-regions_dseg"
MARKER = f"{QUALITY}.json"
"""Ending of the completion marker, see :mod:`sicnn_app.derivatives.marker`."""

CONVENTIONAL, SPREAD = "lsq", "std"
"""``desc`` of the maps of the conventional fit, and of standard deviations."""

SPREAD_SUFFIX = "_std"
"""Key of a map's standard deviation in ``Estimate.maps``: ``f_std``."""

GROUP_UNIT = "group"
"""Name of the lock, and of the record, of the group; also :func:`run_unit`, :func:`report_unit`."""

TABLE = "group_ivim"
REPEATABILITY = "group_repeatability"
PAGE = "group.html"


def map_ending(label: str, desc: str | None = None) -> str:
    """Ending of a map without extension.

    Examples
    --------
    >>> map_ending("f"), map_ending("dstar", SPREAD)
    ('model-ivim_param-f_dwimap', 'model-ivim_param-dstar_desc-std_dwimap')
    """
    return f"model-ivim_param-{label}_{f'desc-{desc}_' if desc else ''}dwimap"


def mask_ending(label: str) -> str:
    """Ending of a mask without extension."""
    return f"desc-{label}_mask"


_WORD = "[a-z0-9]+"
_TABLES = (QUALITY, TRAINING, MOTION, VOLUMES, REGIONS)
_OF_A_RUN = "|".join((map_ending(_WORD), map_ending(_WORD, _WORD), FLAGS, REGION_CODES, *_TABLES))
_TELLING = re.compile(rf"(?P<run>.+)_({_OF_A_RUN})\.(nii\.gz|json|tsv)")
"""Outputs that tell of a run; preprocessed series and masks are also written by other programs."""


def dwi_folder(output_dir: Path, subject: str, session: str | None) -> Path:
    """Folder of the outputs of runs: ``sub-X[/ses-Y]/dwi``."""
    folder = Path(output_dir) / f"sub-{subject}"
    return (folder if session is None else folder / f"ses-{session}") / "dwi"


def output_path(run: DwiRun, output_dir: Path, ending: str) -> Path:
    """Place of an output of a run, from its ending with extension.

    Raises InternalError when a label could lead out of its folder; names of files that were read have none
    like that.
    """
    for key, label in run.entities.items():
        if not (LABEL.fullmatch(key) and LABEL.fullmatch(label)):
            raise InternalError(f"{key}-{label!r} cannot be part of a file name: only letters and digits can")
    return dwi_folder(output_dir, run.subject, run.session) / f"{run.name}_{ending}"


def map_outputs(method: str, *, spread: bool, conventional: bool) -> list[tuple[MapSpec, str | None]]:
    """Maps that are written for a run, each with its ``desc``, in the order in which they are written."""
    found: list[tuple[MapSpec, str | None]] = []
    for spec in maps_of(method):
        found += [(spec, None), *([(spec, SPREAD)] if spread and spec.of_tissue else [])]
    return found + [(SPECS[label], CONVENTIONAL) for label in PARAMETERS if conventional]


def expected_outputs(
    run: DwiRun,
    output_dir: Path,
    *,
    anatomy: str,
    method: str = "",
    spread: bool = False,
    conventional: bool = False,
    motion: bool = False,
    regions: bool = False,
) -> list[Path]:
    """Files that :func:`sicnn_app.derivatives.write.write_run` writes, the completion marker last.

    Parameters
    ----------
    anatomy : str
        ``brain`` or ``body``.
    method : str
        Decides which maps there are besides those of every method.
    spread, conventional : bool
        Standard deviations, and maps of the conventional fit, are written.
    motion : bool
        Motion is corrected.
    regions : bool
        There is a segmentation.
    """
    with_bvecs = all(part.bvec is not None for part in run.parts)
    maps = map_outputs(method, spread=spread, conventional=conventional)
    maps.sort(key=lambda pair: (None, CONVENTIONAL, SPREAD).index(pair[1]))
    images = [map_ending(spec.label, desc) for spec, desc in maps]
    segmentations = [FLAGS, *([REGION_CODES] if regions else [])]
    images += [*segmentations, SERIES, AVERAGED, mask_ending(mask_label(run, anatomy))]
    endings = [f"{image}{extension}" for image in images for extension in (".nii.gz", ".json")]
    endings += [f"{name}.tsv" for name in segmentations]
    endings += [f"{SERIES}.bval", f"{AVERAGED}.bval", *([f"{SERIES}.bvec"] if with_bvecs else [])]
    tables = [VOLUMES, *([REGIONS] if regions else []), *([MOTION] if motion else []), TRAINING, QUALITY]
    endings += [f"{name}{extension}" for name in tables for extension in (".tsv", ".json")]
    return [output_path(run, output_dir, ending) for ending in endings]


def reported_sessions(output_dir: Path) -> list[tuple[str, str | None]]:
    """Subject and session labels of the runs of :func:`run_names`, in natural order; session None without."""
    found: set[tuple[str, str | None]] = set()
    for pattern in ("sub-*/dwi", "sub-*/ses-*/dwi"):
        for folder in output_dir.glob(pattern):
            labels = [part.partition("-")[2] for part in folder.relative_to(output_dir).parts[:-1]]
            subject, session = labels[0], labels[1] if len(labels) > 1 else None
            if all(map(LABEL.fullmatch, labels)) and run_names(output_dir, subject, session):
                found.add((subject, session))
    return sorted(found, key=lambda pair: [natural_key(label or "") for label in pair])


def run_names(output_dir: Path, subject: str, session: str | None) -> list[str]:
    """Stems of the runs of which maps, flags or a table are on disk, in natural order."""
    folder = dwi_folder(output_dir, subject, session)
    matches = (_TELLING.fullmatch(path.name) for path in folder.glob(f"sub-{subject}*"))
    runs = {name: run_called(name) for name in {match["run"] for match in matches if match}}
    # A run of another subject or session has no outputs here.
    own = [name for name, run in runs.items() if run and (run.subject, run.session) == (subject, session)]
    return sorted(own, key=natural_key)


def source_name(run: str) -> BidsName | None:
    """Name of the source image of a run; None when no run is called so."""
    return parse_name(f"{run}_dwi.nii.gz")


def run_called(name: str) -> DwiRun | None:
    """The run whose outputs begin with ``name``, by its entities alone; None when no run is called so."""
    parsed = source_name(name)
    run = None if parsed is None or "sub" not in parsed.entities else DwiRun(parsed.entities, parts=())
    return run if run is not None and run.name == name else None


def mask_labels(run: str, text: str) -> list[str]:
    """Labels of the masks that are named, in quotes, in the list of the outputs of a run."""
    return re.findall(rf"'{re.escape(run)}_{mask_ending(f'({LABEL.pattern})')}\.nii\.gz'", text)


def figures_folder(output_dir: Path, subject: str) -> Path:
    """Folder of the pictures of reports."""
    return Path(output_dir) / f"sub-{subject}" / "figures"


def picture_name(run: str, desc: str, ending: str) -> str:
    """Name of a picture of a run, or of the numbers behind one.

    Examples
    --------
    >>> picture_name("sub-01", "fmap", "png")
    'sub-01_desc-fmap_dwi.png'
    """
    return f"{run}_desc-{desc}_dwi.{ending}"


def step_picture_name(run: str, label: str) -> str:
    """Name of the picture of what a step did to a run."""
    return picture_name(run, f"step{label}", "png")


VOLUME_PICTURES = tuple(f"volume{number}" for number in range(1, MOST_PICTURES + 1))
"""Labels of the pictures of volumes in question."""

CARPET = "carpet"
"""Label of the picture of all volumes."""


def kept_pictures_of(run: str, output_dir: Path, subject: str) -> dict[str, Path]:
    """Pictures that are drawn when a run is processed, and cannot be made again from what is written.

    By label: of the step, :data:`CARPET`, or one of :data:`VOLUME_PICTURES`.
    """
    names = {label: step_picture_name(run, label) for label in STEPS}
    names |= {label: picture_name(run, label, "png") for label in (CARPET, *VOLUME_PICTURES)}
    return {label: figures_folder(output_dir, subject) / name for label, name in names.items()}


def session_name(subject: str, session: str | None) -> str:
    """``sub-X`` or ``sub-X_ses-Y``, from labels without prefix."""
    return f"sub-{subject}" if session is None else f"sub-{subject}_ses-{session}"


def report_path(output_dir: Path, subject: str, session: str | None) -> Path:
    """Place of the report of a subject or session."""
    return output_dir / f"{session_name(subject, session)}.html"


def run_unit(run: str) -> str:
    """Unit of a run, see :data:`GROUP_UNIT`."""
    return f"run-{run}"


def report_unit(subject: str, session: str | None) -> str:
    """Unit of a report, see :data:`GROUP_UNIT`."""
    return f"report-{session_name(subject, session)}"


def group_outputs(output_dir: Path) -> list[Path]:
    """Files that :func:`sicnn_app.group.write.write_group` writes, in order."""
    tables = [f"{stem}.{ending}" for stem in (TABLE, REPEATABILITY) for ending in ("tsv", "json")]
    return [output_dir / name for name in (*tables, PAGE)]

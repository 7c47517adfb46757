"""The completion marker of a run: what it was made with, and which files belong to it.

It is the sidecar of the quality table, written after all other files of the run.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sicnn_app.bids.text_files import read_json
from sicnn_app.derivatives.names import MARKER, output_path
from sicnn_app.derivatives.outputs import own_file
from sicnn_app.derivatives.quality import Quality, columns
from sicnn_app.derivatives.sidecar import (
    DatasetRoots,
    mask_source,
    plain,
    portable_json,
    provenance,
    sources,
)
from sicnn_app.errors import DataError, SicnnAppError
from sicnn_app.ivim.adequacy_inputs import Adequacy
from sicnn_app.ivim.run import DwiRun, RunResult
from sicnn_app.steps import STEPS


@dataclass(frozen=True)
class Marker:
    """Completion marker of a run, which is written last.

    Attributes
    ----------
    path : Path
    content : dict
        The whole sidecar of the QC table.
    fingerprint : str
    outputs : tuple of Path
        Files that belong to it, sorted.
    """

    path: Path
    content: dict[str, Any]
    fingerprint: str
    outputs: tuple[Path, ...]

    @property
    def complete(self) -> bool:
        """Whether no output is missing."""
        return all(os.path.isfile(path) for path in self.outputs)


def marker_path(output_dir: Path, run: DwiRun) -> Path:
    """Where the completion marker of a run lies."""
    return output_path(run, output_dir, MARKER)


def read_marker(output_dir: Path, run: DwiRun) -> Marker:
    """Completion marker of a run.

    Raises
    ------
    MissingInputError
        There is none.
    DataError
        It cannot be read, or names no fingerprint, or no outputs, or others than those of its run.
    """
    path = marker_path(output_dir, run)
    content = read_json(own_file(path, output_dir))
    fingerprint, outputs = content.get("Fingerprint"), content.get("Outputs")
    # A name with a folder in it would lead anywhere.
    if not (isinstance(fingerprint, str) and isinstance(outputs, list) and outputs) or not all(
        isinstance(name, str) and os.path.basename(name) == name and name.startswith(f"{run.name}_")
        for name in outputs
    ):
        raise DataError(
            f"{path} does not name the fingerprint and the outputs of its run: process it again with "
            "--overwrite"
        )
    return Marker(path, content, fingerprint, tuple(path.with_name(name) for name in sorted(set(outputs))))


def recorded_fingerprint(output_dir: Path, run: DwiRun) -> tuple[str | None, bool]:
    """Fingerprint in the completion marker of a run, if there is one, and whether no output is missing.

    The marker, written last, names the files that belong to it.
    """
    try:
        marker = read_marker(output_dir, run)
    except SicnnAppError:
        return None, False
    return marker.fingerprint, marker.complete


def marker_content(quality: Quality, roots: DatasetRoots, outputs: list[str]) -> dict[str, Any]:
    """Columns of the quality table and what identifies the run.

    Parameters
    ----------
    quality : Quality
    roots : DatasetRoots
    outputs : list of str
        File names of everything the run wrote beside this sidecar.
    """
    result = quality.result
    return {
        "Description": "Quality measures of one run; this file is written after all others of the run",
        "Sources": sources(result, roots),
        **{column.name: column.words() for column in columns()},
        "Adequacy": _adequacy_in_words(quality.adequacy),
        "Fingerprint": result.fingerprint,
        "Settings": portable_json(result.settings, roots),
        "Outputs": outputs,
        "MaskSource": mask_source(result, roots),
        "AnatomySource": roots.portable(result.anatomy_source),
        "PreprocessingSteps": portable_json(result.steps, roots),
        "StepPictures": _step_pictures(result),
        "Warnings": [roots.portable(line) for line in result.warnings],
        **provenance(result),
    }


def _adequacy_in_words(adequacy: Adequacy) -> dict[str, Any]:
    """The verdict with the words of every check, for the sidecar of the QC table and the report."""
    return plain(
        {
            "Verdict": adequacy.verdict,
            "Sentence": adequacy.sentence,
            "Checks": [
                {
                    "Name": check.name,
                    "Value": check.value,
                    "Verdict": check.verdict,
                    "Meaning": check.meaning,
                    "Numbers": check.numbers,
                }
                for check in adequacy.checks.values()
            ],
        }
    )


def _step_pictures(result: RunResult) -> list[dict[str, Any]]:
    """Words for the pictures of the corrections; slices and volumes are counted from 0."""
    return plain(
        [
            {
                "Step": STEPS[step.label].name,
                "Slice": step.slice_index,
                "BValues": step.bvals,
                "SourceVolumes": step.volumes,
                "RootMeanSquareDifference": step.root_mean_squares,
                "DifferenceRange": step.limit,
            }
            for step in result.before_after
        ]
    )

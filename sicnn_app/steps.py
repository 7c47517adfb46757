"""The steps that correct images before the estimation: a row each, from which the rest of the app takes them.

May import ``preprocess``, for types alone.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from sicnn_app.options import Option

if TYPE_CHECKING:
    from sicnn_app.preprocess.correction import Corrected, Progress
    from sicnn_app.settings import PreprocessingSettings

AUTO_MIN_VOLUMES = 6
"""Volumes from which on ``--denoise auto`` means MP-PCA.

Measured with least squares on the abdominal phantom: with 6 volumes or more the errors of F, D and D* fell at
every SNR from 20 to 300, with 4 the error of D grew by 16 % at 300."""

MIN_PATCH_VOXELS = 25
"""Voxels of the smallest MP-PCA patch (5 x 5 in a single slice, 3 x 3 x 3 in a volume).

With 9 voxels and 4 volumes noise and signal cannot be told apart: at an SNR of 300 the error of F tripled."""

MIN_MOTION_VOXELS = 16
"""Voxels per axis of a slice; fewer hold no position."""

NOT_DONE = "Not done"
"""How the description of a step begins that was left out: records say it in words only."""

VERAART = (
    "Veraart J, Novikov DS, Christiaens D, Ades-aron B, Sijbers J, Fieremans E. Denoising of diffusion "
    "MRI using random matrix theory. NeuroImage 2016;142:394-406. "
    "https://doi.org/10.1016/j.neuroimage.2016.08.016"
)
FADNAVIS = (
    "Fadnavis S, Batson J, Garyfallidis E. Patch2Self: denoising diffusion MRI with self-supervised "
    "learning. Advances in Neural Information Processing Systems 2020;33:16293-16303."
)
KELLNER = (
    "Kellner E, Dhital B, Kiselev VG, Reisert M. Gibbs-ringing artifact removal based on local "
    "subvoxel-shifts. Magnetic Resonance in Medicine 2016;76(5):1574-1581. "
    "https://doi.org/10.1002/mrm.26054"
)


@dataclass(frozen=True)
class Situation:
    """Facts about a run.

    Attributes
    ----------
    anatomy : {'brain', 'body'}
    preprocessed : bool
        The image comes from a derivative dataset: ``auto`` then leaves it alone, because a second
        interpolation or projection loses detail and hides noise.
    grid : tuple of int
        Voxels along X, Y and Z; empty until the images are loaded.
    slice_axis : int
        Axis of the grid across the slices.
    """

    anatomy: str
    preprocessed: bool
    volumes: int = 0
    grid: tuple[int, ...] = ()
    slice_axis: int = 2


class Correction(Protocol):
    """Module of a step."""

    def correct(
        self,
        series: Any,
        *,
        kind: str,
        settings: PreprocessingSettings,
        progress: Progress | None = None,
    ) -> Corrected:
        """The series after the step; ``kind`` is what ``wanted`` of the step came to, never ``none``.

        Raises
        ------
        NotPossible
            When these data do not allow it: they are left as they are.
        DataError
            When they do not allow it, and maps without it would mislead.
        """


Wanted = Callable[["PreprocessingSettings", Situation], tuple[str, str]]
"""Kind of the correction that the settings come to, ``none`` for none, and what decided it."""


@dataclass(frozen=True)
class Step:
    """One step that makes a new series, and what the rest of the app says of it.

    Attributes
    ----------
    name : str
        In records and titles.
    module : str
        A :class:`Correction`, imported on use: dipy's registration takes seconds.
    options : mapping of str to Option
        By name of the setting; the first one asks for the step.
    wanted : callable
        See :data:`Wanted`; as far as the situation tells.
    look_for : str
        What its picture in the report should show, and what it should not.
    references : mapping of str to str
        The work to cite, by a word of the record of the step that was done, in small letters.
    lowers_noise : bool
        The noise is estimated from the series before it.
    """

    name: str
    module: str
    options: Mapping[str, Option]
    wanted: Wanted
    look_for: str
    references: Mapping[str, str] = field(default_factory=dict)
    lowers_noise: bool = False

    def asked(self, settings: PreprocessingSettings) -> bool:
        """True unless the settings rule the step out; ``auto`` may still come to nothing."""
        return settings.option(next(iter(self.options))) not in ("none", False, 0)

    def load(self) -> Correction:
        """The module, imported."""
        return cast(Correction, importlib.import_module(self.module))


def largest_patch(grid: tuple[int, ...]) -> int:
    """Voxels of the largest patch of odd sides that fits an image."""
    return math.prod(size - 1 + size % 2 for size in grid)


def motion_obstacle(grid: tuple[int, ...], volumes: int, slice_axis: int = 2) -> str:
    """Why motion cannot be estimated; empty when it can."""
    plane = [size for axis, size in enumerate(grid) if axis != slice_axis]
    if min(plane) < MIN_MOTION_VOXELS:
        return f"a slice of {plane[0]} x {plane[1]} voxels has fewer than {MIN_MOTION_VOXELS} along an axis"
    return "there is one volume" if volumes < 2 else ""


def _denoising(settings: PreprocessingSettings, situation: Situation) -> tuple[str, str]:
    # Patch2Self is never chosen: it removed no more noise than MP-PCA, and damaged series without repeats.
    if settings.denoise != "auto":
        return settings.denoise, f"--denoise {settings.denoise}"
    if situation.preprocessed:
        return "none", "automatic: the image is preprocessed"
    enough = situation.volumes >= AUTO_MIN_VOLUMES
    if enough and situation.grid and largest_patch(situation.grid) < MIN_PATCH_VOXELS:
        size = " x ".join(map(str, situation.grid))
        return "none", f"automatic: an image of {size} voxels has no patch of {MIN_PATCH_VOXELS}"
    method = "mppca" if enough else "none"
    return method, f"automatic: {situation.volumes} volumes, MP-PCA from {AUTO_MIN_VOLUMES} on"


def _unringing(settings: PreprocessingSettings, situation: Situation) -> tuple[str, str]:
    return ("gibbs", "--unring") if settings.unring else ("none", "--unring was not given")


def _motion_correction(settings: PreprocessingSettings, situation: Situation) -> tuple[str, str]:
    if settings.motion_correction != "auto":
        return settings.motion_correction, f"--motion-correction {settings.motion_correction}"
    if situation.preprocessed:
        return "none", "automatic: the image is preprocessed already"
    if situation.grid:
        obstacle = motion_obstacle(situation.grid, situation.volumes, situation.slice_axis)
        if obstacle:
            return "none", f"automatic: {obstacle}"
    if settings.per_slice:
        return "rigid", "automatic: --per-slice asks for a correction"
    if situation.anatomy == "brain":
        return "rigid", "automatic: the brain moves as a rigid body"
    return "none", "automatic: the organs of the body do not move as one rigid body"


STEPS: dict[str, Step] = {
    "denoising": Step(
        name="Denoising",
        module="sicnn_app.preprocess.denoise",
        options={
            "denoise": Option(
                "auto",
                "auto decides by the number of volumes and records why; images of -d that are preprocessed "
                "already are left alone (default: {default})",
                ("auto", "none", "mppca", "patch2self"),
            )
        },
        wanted=_denoising,
        look_for="What was removed should look like noise. Edges or organs in the difference mean that "
        "signal was removed as well; where it is paler than elsewhere, noise was left in.",
        references={"mppca": VERAART, "mp-pca": VERAART, "patch2self": FADNAVIS},
        lowers_noise=True,
    ),
    "unringing": Step(
        name="Gibbs unringing",
        module="sicnn_app.preprocess.unring",
        options={"unring": Option(False, "remove Gibbs ringing (default: leave it)")},
        wanted=_unringing,
        look_for="The difference should be fine lines beside and along edges. Whole organs in it mean that "
        "signal was removed.",
        references={"gibbs": KELLNER, "unring": KELLNER},
    ),
    "motioncorrection": Step(
        name="Motion correction",
        module="sicnn_app.preprocess.motion",
        options={
            "motion_correction": Option(
                "auto",
                "between volumes; auto: rigid for brain, none for body and for preprocessed images "
                "(default: {default})",
                ("auto", "none", "rigid", "affine"),
            ),
            "per_slice": Option(
                False,
                "correct motion within every slice instead of in 3-D, as suits breathing (default: 3-D)",
            ),
        },
        wanted=_motion_correction,
        look_for="Edges in the difference are where something was moved. They should be as sharp "
        "after as before; a grain all over comes from the interpolation.",
    ),
}
"""The steps by their labels in file names, in the order in which they are done.

Noise is independent from voxel to voxel, and ringing along the axes of the image, only until voxels are
moved."""


def step_options() -> dict[str, Option]:
    """Every option of every step, by the name of its setting."""
    return {name: option for step in STEPS.values() for name, option in step.options.items()}

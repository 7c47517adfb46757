"""A protocol -> how precisely F, D and D* of every tissue can be expected, and which b-values were better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sicnn_app.assess.trial import Errors, try_methods
from sicnn_app.errors import UsageError
from sicnn_app.ivim.parameters import TISSUE_LABELS
from sicnn_app.ivim.precision import cramer_rao_bounds, improve_bvals, typical_bound
from sicnn_app.ivim.series import MAX_LOW_BVAL, MIN_DISTINCT_BVALS
from sicnn_app.phantoms.acquire import noise_sigma
from sicnn_app.phantoms.dataset import SimulationSettings
from sicnn_app.phantoms.phantom import S0_SCALE, make_phantom
from sicnn_app.phantoms.tissues import TISSUES, Tissue

SHAPE = {"abdomen": (64, 60, 1), "brain": (56, 60, 1)}
"""Matrix size when none is asked for: small enough for a minute, with a few dozen voxels in most tissues."""


@dataclass(frozen=True)
class Expectation:
    """Precision to be expected of one parameter of one tissue, in the unit of the parameter.

    What each number is stands with its column, see :data:`sicnn_app.assess.output.COLUMNS`; bounds may be
    infinite. Errors are those of the simulation, by method.
    """

    tissue: str
    parameter: str
    true_value: float
    voxels: int
    bound: float
    bound_suggested: float
    errors: dict[str, Errors]


@dataclass(frozen=True)
class Assessment:
    """A protocol assessed.

    Attributes
    ----------
    bvals, suggested : ndarray, shape (N,), s/mm^2, ascending
        One per volume: asked for, and better for the same number.
    typical, typical_suggested : float
        :func:`sicnn_app.ivim.precision.typical_bound` of both.
    expectations : list of Expectation
        Tissue by tissue, F, D and D* of each.
    """

    settings: SimulationSettings
    bvals: np.ndarray
    suggested: np.ndarray
    typical: float
    typical_suggested: float
    expectations: list[Expectation]

    def gain(self, parameter: str) -> float:
        """Geometric mean of the suggested bound over the one asked for; NaN where no tissue has both."""
        ratios = [
            row.bound_suggested / row.bound
            for row in self.expectations
            if row.parameter == parameter and np.isfinite([row.bound, row.bound_suggested]).all()
        ]
        return float(np.exp(np.mean(np.log(ratios)))) if ratios else np.nan


def perfused_tissues(preset: str) -> tuple[Tissue, ...]:
    """Tissues of a preset with perfusion and diffusion: fluid, fat and vessels lack one of the two."""
    return tuple(tissue for tissue in TISSUES[preset] if 0 < tissue.f < 1)


def assess(
    settings: SimulationSettings, progress: Callable[[str, int, int], None] | None = None
) -> Assessment:
    """Assess a protocol: bounds for every tissue, a short simulation, better b-values.

    Parameters
    ----------
    settings : SimulationSettings
        Protocol, noise, anatomy and seed; one subject, with the tissue values of the literature.

    Raises
    ------
    UsageError
        Without noise, or for b-values that the app would refuse.
    """
    require_assessable(settings)
    volumes = np.sort(settings.protocol.gradient_table()[0])
    phantom = make_phantom(settings.preset, settings.shape, seed=settings.seed, texture=settings.texture)
    tissues = perfused_tissues(settings.preset)
    values = {name: np.array([getattr(tissue, name) for tissue in tissues]) for name in TISSUE_LABELS}
    # Of one volume, relative to the S0 of every tissue: dark tissue has more of it.
    noise = noise_sigma(phantom, settings.snr) / (S0_SCALE * np.array([tissue.s0 for tissue in tissues]))
    suggested = improve_bvals(volumes, noise, *values.values(), directions=settings.protocol.directions)
    bounds, better = (cramer_rao_bounds(b, noise[:, None], **values) for b in (volumes, suggested))
    errors = try_methods(phantom, volumes, tissues, snr=settings.snr, seed=settings.seed, progress=progress)
    expectations = [
        Expectation(
            tissue=tissue.name,
            parameter=parameter,
            true_value=getattr(tissue, parameter),
            voxels=int(np.count_nonzero(phantom.labels == tissue.code)),
            bound=float(bounds[parameter][index]),
            bound_suggested=float(better[parameter][index]),
            errors={method: found[tissue.name, parameter] for method, found in errors.items()},
        )
        for index, tissue in enumerate(tissues)
        for parameter in TISSUE_LABELS
    ]
    return Assessment(
        settings=replace(settings, shape=phantom.mask.shape),
        bvals=volumes,
        suggested=suggested,
        typical=typical_bound(volumes, noise, **values),
        typical_suggested=typical_bound(suggested, noise, **values),
        expectations=expectations,
    )


def require_assessable(settings: SimulationSettings) -> None:
    """Raise UsageError without noise, or for b-values that the app would refuse."""
    bvals = settings.protocol.bvals
    if not np.isfinite(settings.snr):
        raise UsageError("--assess needs noise: give --snr a number")
    if len(set(bvals)) < MIN_DISTINCT_BVALS or min(bvals) > MAX_LOW_BVAL:
        raise UsageError(
            f"--assess needs {MIN_DISTINCT_BVALS} or more distinct b-values, one of them at most "
            f"{MAX_LOW_BVAL:g} s/mm^2, as sicnn-app does: add some to --bvals"
        )

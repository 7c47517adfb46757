"""How far maps are from the truth."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter
from scipy.stats import spearmanr

from sicnn_app.phantoms.phantom import Phantom

LABELS = ("f", "d", "dstar")

SCALES = {"f": 1.0, "d": 1e4, "dstar": 1e3}
"""What tables multiply by: F as a fraction, D in 1e-4 mm^2/s, D* in 1e-3 mm^2/s."""

NAMES = {"f": "F", "d": "D (1e-4)", "dstar": "D* (1e-3)"}

FORMS = {"f": ".4f", "d": ".2f", "dstar": ".2f"}
"""How tables write them."""

LEAST_F = 0.02
"""True perfusion fraction above which D* has a meaning."""


def voxels_of(phantom: Phantom, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Where each parameter has a meaning: F in the mask, D outside of vessels, D* where F is above 0.02.

    Vessels have an F of 1: no tissue is there whose D could be wrong.
    """
    vessels = [tissue.code for tissue in phantom.tissues if tissue.name == "vessel"]
    return {"f": mask, "d": mask & ~np.isin(phantom.labels, vessels), "dstar": mask & (phantom.f > LEAST_F)}


def errors_of(phantom: Phantom, mask: np.ndarray, maps: dict[str, np.ndarray]) -> list[float]:
    """Root mean square errors of F, D and D*, each where it has a meaning."""
    return [
        float(np.sqrt(np.mean(np.square(maps[label][where] - getattr(phantom, label)[where]))))
        for label, where in voxels_of(phantom, mask).items()
    ]


def boundary_band(phantom: Phantom, mask: np.ndarray) -> np.ndarray:
    """Voxels of the mask with another tissue, or background, among their eight neighbours in the slice."""
    size = (3, 3, 1)
    return mask & (maximum_filter(phantom.labels, size) != minimum_filter(phantom.labels, size))


def map_errors(
    phantom: Phantom, mask: np.ndarray, maps: dict[str, np.ndarray], *, only: np.ndarray | None = None
) -> dict[str, float]:
    """Errors of the maps against the truth.

    Parameters
    ----------
    phantom : Phantom
    mask : ndarray, shape (X, Y, Z), bool
    maps : dict of str to ndarray, shape (X, Y, Z)
        F fraction, D and D* in mm^2/s under the labels ``f``, ``d``, ``dstar``.
    only : ndarray, shape (X, Y, Z), bool, optional
        Voxels to restrict everything to, such as a sample.

    Returns
    -------
    dict of str to float
        For every label ``rmse_``, ``bias_`` (mean error), ``sd_`` (standard deviation of the errors);
        ``edge_f``, the RMSE of F in the boundary band; ``spearman``, the rank correlation of the D* and F
        maps where the true F is above 0.02 (in the truth of the phantoms it is small).
    """
    mask = mask if only is None else mask & only
    found: dict[str, float] = {}
    where = voxels_of(phantom, mask)
    for label, voxels in where.items():
        errors = maps[label][voxels].astype(np.float64) - getattr(phantom, label)[voxels]
        found[f"rmse_{label}"] = float(np.sqrt(np.mean(errors**2)))
        found[f"bias_{label}"] = float(errors.mean())
        found[f"sd_{label}"] = float(errors.std())
    edge = boundary_band(phantom, mask)
    found["edge_f"] = float(np.sqrt(np.mean((maps["f"][edge] - phantom.f[edge]) ** 2)))
    found["spearman"] = float(spearmanr(maps["dstar"][where["dstar"]], maps["f"][where["dstar"]]).statistic)
    return found

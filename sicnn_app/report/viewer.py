"""Interactive pages of the maps: nilearn's viewer, one self-contained file per map."""

from __future__ import annotations

import re
import warnings

import nibabel as nib
import numpy as np

from sicnn_app.report.collect import RunDerivatives
from sicnn_app.report.quantities import Quantity, shown_quantities

VIEWED = ("f", "d", "dstar")
"""Labels of the maps that get a page."""

_OUTSIDE_LINK = re.compile(r"<link[^>]*https?://[^>]*>")


def view_run(run: RunDerivatives) -> dict[str, tuple[str, bytes]]:
    """Interactive page of every map of a run, over its S0 map.

    Parameters
    ----------
    run : RunDerivatives

    Returns
    -------
    dict of str to (file name, page)
        By symbol of the map; empty when the run has no voxels or no maps.
    """
    if not run.has_voxels:
        return {}
    return {
        quantity.spec.symbol: (f"{run.name}_desc-{quantity.spec.label}view_dwi.html", _page(run, quantity))
        for quantity in shown_quantities(run.mask_label)
        if quantity.spec.label in VIEWED and quantity.spec.label in run.maps
    }


def _page(run: RunDerivatives, quantity: Quantity) -> bytes:
    from nilearn.plotting import view_img

    affine = np.diag([*run.zooms, 1.0]) if run.affine is None else run.affine

    def image(values: np.ndarray) -> nib.Nifti1Image:
        return nib.Nifti1Image(np.nan_to_num(values).astype(np.float32), affine)

    low, high = quantity.limits(run.inside(quantity.spec.label))
    background = run.maps.get("s0", run.mask.astype(np.float32))
    with warnings.catch_warnings():
        # nilearn takes percentiles of masked arrays, of which numpy warns.
        warnings.filterwarnings("ignore", category=UserWarning)
        view = view_img(
            image(run.maps[quantity.spec.label] * quantity.factor),
            bg_img=image(background),
            cmap=quantity.cmap,
            symmetric_cmap=False,
            vmin=low,
            vmax=high,
            resampling_interpolation="nearest",
            title=f"{run.name}: {quantity.axis_label}",
        )
    return _OUTSIDE_LINK.sub("", view.get_standalone()).encode("utf-8")

"""The bi-exponential IVIM signal equation.

Tests tie to it what writes it down once more: ``lsq/levenberg_marquardt.py``, with its derivatives, and
``report/templates/voxels.js``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def ivim_signal(
    b: Any, f: Any, d: Any, dstar: Any, s0: Any = 1.0, *, exp: Callable[[Any], Any] = np.exp
) -> Any:
    """Bi-exponential IVIM signal S(b) = S0 (F exp(-b D*) + (1 - F) exp(-b D)).

    D* is the full second exponent (not D* - D), as in Le Bihan et al.,
    Radiology 1988;168:497-505, and in the SI-CNN supplement.

    Parameters
    ----------
    b : array_like, shape broadcastable to the result, s/mm^2
    f : array_like, perfusion fraction, 0..1
    d : array_like, diffusion coefficient, mm^2/s
    dstar : array_like, pseudo-diffusion coefficient, mm^2/s
    s0 : array_like, signal at b = 0, any unit
    exp : callable
        Element-wise exponential of the array library in use (``numpy.exp`` or
        ``torch.exp``), so that arrays and tensors share this equation.

    Returns
    -------
    array or tensor, in the unit of ``s0``

    Examples
    --------
    >>> float(ivim_signal(0.0, 0.2, 0.001, 0.05))
    1.0
    >>> round(float(ivim_signal(100.0, 0.2, 0.001, 0.05)), 6)
    0.725218
    """
    return s0 * (f * exp(-b * dstar) + (1.0 - f) * exp(-b * d))


def ivim_signal_maps(
    bvals: np.ndarray, f: np.ndarray, d: np.ndarray, dstar: np.ndarray, s0: np.ndarray | float = 1.0
) -> np.ndarray:
    """IVIM signals, shape (..., B), of whole maps, shape (...), at b-values of shape (B,)."""
    b = np.asarray(bvals, dtype=np.float64)
    expand = (np.asarray(value)[..., None] for value in (f, d, dstar, s0))
    return ivim_signal(b, *expand)


def ivim_signal_torch(
    bvals: torch.Tensor, f: torch.Tensor, d: torch.Tensor, dstar: torch.Tensor, s0: torch.Tensor | float = 1.0
) -> torch.Tensor:
    """IVIM signals of tensors; arguments must broadcast, gradients flow through all of them."""
    import torch

    return ivim_signal(bvals, f, d, dstar, s0, exp=torch.exp)

"""Signals of some voxels over the b-value, beside what the maps and the conventional fit predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.colors import to_rgb

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.ivim.parameters import PARAMETERS
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.report.charts import svg_chart
from sicnn_app.report.style import BLUE, INK, ORANGE

Curve = Callable[[np.ndarray], np.ndarray]
"""From b-values, s/mm^2, to signals relative to S0."""

MAX_CURVE_VOXELS = 20_000
"""Voxels, evenly spread over those there are, that the medians of a predicted curve are taken over."""


@dataclass(frozen=True)
class Decay:
    """Signals of some voxels and the maps that predict them.

    Attributes
    ----------
    bvals : ndarray, shape (B,), s/mm^2, ascending
    signals : ndarray, shape (B, M), units of the image
    maps : mapping of str to ndarray, shape (M,)
        By :data:`sicnn_app.ivim.parameters.PARAMETERS`: fraction, mm^2/s, mm^2/s, units of the image.
    conventional : mapping of str to ndarray, shape (M,)
        The same of the conventional fit; empty when there is none.
    """

    bvals: np.ndarray
    signals: np.ndarray
    maps: Mapping[str, np.ndarray]
    conventional: Mapping[str, np.ndarray]

    def quartiles(self) -> np.ndarray:
        """Quartiles over the voxels of the measured signal relative to S0, shape (3, B), the median second.

        NaN when no voxel has a positive S0.
        """
        s0 = self.maps["s0"]
        usable = s0 > 0
        if not usable.any():
            return np.full((3, len(self.bvals)), np.nan)
        return np.percentile(self.signals[:, usable] / s0[usable], (25, 50, 75), axis=1)

    def predicted(self, bvals: np.ndarray, *, conventional: bool = False) -> np.ndarray:
        """Median over the voxels of the predicted signal relative to S0 of the maps, shape (C,).

        NaN when no voxel has a positive S0, or when there is no such fit.

        Parameters
        ----------
        bvals : ndarray, shape (C,), s/mm^2
        conventional : bool
            By the conventional fit, with its own S0 in the numerator.
        """
        found = self.conventional if conventional else self.maps
        s0 = self.maps["s0"]
        known = (s0 > 0) & np.all([np.isfinite(found.get(label, np.nan)) for label in PARAMETERS], axis=0)
        usable = np.flatnonzero(known)
        if not usable.size:
            return np.full(len(bvals), np.nan)
        chosen = usable[:: max(1, usable.size // MAX_CURVE_VOXELS)]
        f, d, dstar, own = (found[label][chosen] for label in PARAMETERS)
        return np.median(ivim_signal_maps(bvals, f, d, dstar, own / s0[chosen]), axis=0)


def decay_of(run: RunDerivatives, voxels: np.ndarray, *, conventional: bool = True) -> Decay | None:
    """Signals and maps of some voxels of a run; None when the signals or a map are missing.

    Parameters
    ----------
    voxels : ndarray, shape (M,), bool
        Of the voxels of the mask.
    conventional : bool
        The conventional fit is wanted, too.
    """
    if run.measured is None or not set(PARAMETERS) <= run.maps.keys():
        return None
    both = conventional and set(PARAMETERS) <= run.conventional.keys()

    def there(maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {label: maps[label][run.mask][voxels].astype(np.float64) for label in PARAMETERS}

    return Decay(
        bvals=run.measured.bvals,
        signals=run.measured.in_mask[:, voxels],
        maps=there(run.maps),
        conventional=there(run.conventional) if both else {},
    )


def decay_chart(decay: Decay, *, badge: tuple[str, str] | None = None, top: float | None = None) -> bytes:
    """Measured and predicted signal, relative to S0, over the b-value, SVG.

    Parameters
    ----------
    badge : tuple of str, optional
        A short text and the colour of the square it stands in.
    top : float, optional
        Upper end of the axis of the signal, to compare charts by.
    """
    low, median, high = decay.quartiles()
    curves: list[tuple[str, Curve]] = [("predicted", decay.predicted)]
    if decay.conventional:
        curves.append(("least squares", partial(decay.predicted, conventional=True)))
    return points_chart(decay.bvals, median, (median - low, high - median), curves, badge=badge, top=top)


def points_chart(
    bvals: np.ndarray,
    points: np.ndarray,
    bars: tuple[np.ndarray, np.ndarray],
    curves: Sequence[tuple[str, Curve]],
    *,
    badge: tuple[str, str] | None = None,
    top: float | None = None,
) -> bytes:
    """Signals relative to S0 over the b-value, with at most two curves, SVG.

    Parameters
    ----------
    bvals : ndarray, shape (B,), s/mm^2, ascending
    points : ndarray, shape (B,)
    bars : tuple of ndarray, shape (B,)
        Lengths down and up.
    curves : sequence of (label, curve)
    badge, top
        See :func:`decay_chart`.
    """
    last = bvals[-1]
    smooth = np.unique(np.concatenate([np.linspace(0, last, 121), np.linspace(0, last / 8, 60)]))
    with svg_chart() as (axes, svg):
        axes.errorbar(
            bvals,
            points,
            yerr=bars,
            fmt="o",
            color=INK,
            markersize=4,
            elinewidth=1.1,
            capsize=2.5,
            label="measured",
        )
        for (label, curve), color, line in zip(curves, (ORANGE, BLUE), ("-", "--"), strict=False):
            axes.plot(smooth, curve(smooth), color=color, linestyle=line, label=label)
        axes.set(xlabel="b (s/mm²)", ylabel="signal / S0", ylim=(0, top))
        axes.set_xlim(left=-0.02 * last)
        if badge:
            text, colour = badge
            bright = np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722)) > 0.45
            axes.text(
                0.97,
                0.95,
                text,
                transform=axes.transAxes,
                ha="right",
                va="top",
                fontsize=12,
                fontweight="bold",
                color=INK if bright else "white",
                bbox={"facecolor": colour, "edgecolor": INK, "linewidth": 0.8, "pad": 4},
            )
    return svg.getvalue()

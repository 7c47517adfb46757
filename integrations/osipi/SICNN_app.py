"""sicnn-app as an algorithm of OSIPI's TF2.4 code collection: a copy lies in its ``src/standardized``.

Needs ``pip install sicnn-app``; ``run_suite.py`` beside the original puts it there and runs their tests.
"""

import numpy as np
import torch
from src.wrappers.OsipiBase import OsipiBase

import sicnn_app
from sicnn_app.lsq.fit import MAX_ITERATIONS, fit_biexponential
from sicnn_app.lsq.levenberg_marquardt import minimise
from sicnn_app.lsq.starts import COLUMNS, limits
from sicnn_app.settings import Bounds, EstimationSettings

PARAMETERS = {"S0": "s0", "f": "f", "Dp": "dstar", "D": "d"}
"""Names of the collection, and those of the app; both count b in s/mm2 and D, D* in mm2/s."""

GUESS = {"S0": 1.0, "f": 0.1, "Dp": 0.01, "D": 0.001}
"""Where the collection gives none."""


class SICNN_app(OsipiBase):
    """Bounded least squares; of volumes that, or SI-CNN, which shares what similar voxels tell.

    A single voxel and a list of voxels have no neighbours, so that they are always fitted one by one.

    Parameters
    ----------
    bvalues : array-like, shape (B,), s/mm2, optional
    thresholds : None
        There are none: the fit is of all parameters at once.
    bounds : dict of str to [low, high], optional
        By ``S0`` (relative to the signal at the lowest b), ``f``, ``Dp`` and ``D``; those that are left out
        are the app's.
    initial_guess : dict of str to float, optional
        One more start besides the fit's own; the lowest residual wins.
    method : {'lsq', 'si-cnn'}
        Of volumes.
    random_seed : int
        Of the training.
    """

    id_author = "The sicnn-app developers"
    id_algorithm_type = "Bi-exponential fit; of volumes also a self-supervised network with similar voxels"
    id_return_parameters = "f, D*, D"
    id_units = "seconds per milli metre squared"
    id_ref = "https://doi.org/10.1148/radiology.168.2.3393671"

    required_bvalues = 4
    required_thresholds = [0, 0]  # noqa: RUF012 (as the collection has it)
    required_bounds = False
    required_bounds_optional = True
    required_initial_guess = False
    required_initial_guess_optional = True
    accepted_dimensions = 4

    supported_bounds = True
    supported_initial_guess = True
    supported_thresholds = False
    supported_dimensions = 4
    supported_priors = False

    def __init__(
        self,
        bvalues=None,
        thresholds=None,
        bounds=None,
        initial_guess=None,
        method="lsq",
        random_seed=0,
    ):
        super().__init__(bvalues=bvalues, thresholds=thresholds, bounds=bounds, initial_guess=initial_guess)
        self.use_bounds = dict.fromkeys(PARAMETERS, True)
        self.use_initial_guess = dict.fromkeys(PARAMETERS, True)
        # Their suite for networks is for those that are trained before they are asked.
        self.deep_learning = False
        self.stochastic = False
        self.method = method
        self.random_seed = random_seed

    def ivim_fit(self, signals, bvalues=None, **_):
        """Fit of one voxel, shape (B,), or of voxels that do not know of one another, shape (V, B).

        Returns
        -------
        dict of str to float or ndarray, shape (V,)
            ``f``, ``Dp`` and ``D``; NaN where a signal is no number, or not positive at the lowest b-value.
        """
        voxels = np.atleast_2d(np.asarray(signals, dtype=np.float64))
        b = self._bvalues(bvalues)
        start, usable = _baseline(voxels, b)
        found = {name: np.full(len(voxels), np.nan) for name in ("f", "Dp", "D")}
        if usable.any():
            y, b = torch.from_numpy(voxels[usable] / start[usable, None]), torch.from_numpy(b)
            fit = fit_biexponential(y, b, self._app_bounds())
            guessed = self._from_guess(y, b)
            better = guessed.rss < fit.rss
            for name in found:
                column = PARAMETERS[name]
                other = guessed.parameters[COLUMNS.index(column)]
                found[name][usable] = torch.where(better, other, getattr(fit, column)).numpy()
        return {name: values[0] if np.ndim(signals) == 1 else values for name, values in found.items()}

    def ivim_fit_full_volume(self, signals, bvalues=None, mask=None, **_):
        """Maps of a volume, shape (X, Y, Z, B) or (X, Y, B); voxels of a shape (V, B) are fitted one by one.

        Parameters
        ----------
        mask : array-like of bool, shape of the maps, optional
            Voxels to estimate, by default all with a signal. Leave air out: networks learn from it, too.

        Returns
        -------
        dict of str to ndarray, shape of the maps
            ``f``, ``Dp`` and ``D``; NaN outside of the mask.
        """
        signals, b = np.asarray(signals, dtype=np.float64), self._bvalues(bvalues)
        if signals.ndim < 3:
            return self.ivim_fit(signals, b)
        _, usable = _baseline(signals, b)
        settings = EstimationSettings(
            method=self.method, random_seed=self.random_seed, bounds=self._app_bounds()
        )
        found = sicnn_app.estimate(
            np.where(usable[..., None], signals, 0.0),
            b,
            usable if mask is None else usable & np.asarray(mask, dtype=bool),
            method=self.method,
            seed=self.random_seed,
            settings=settings,
        )
        return {name: getattr(found, PARAMETERS[name]).astype(np.float64) for name in ("f", "Dp", "D")}

    def _bvalues(self, bvalues):
        return np.asarray(self.bvalues if bvalues is None else bvalues, dtype=np.float64)

    def _app_bounds(self):
        given = {PARAMETERS[name]: tuple(map(float, pair)) for name, pair in (self.bounds or {}).items()}
        return Bounds(**given)

    def _from_guess(self, y, b):
        """Fit that starts at the guess, moved into the bounds."""
        guess = GUESS | (self.initial_guess or {})
        lower, upper = limits(self._app_bounds(), y)
        by_column = {column: guess[name] for name, column in PARAMETERS.items()}
        start = y.new_tensor([by_column[column] for column in COLUMNS]).clamp(lower, upper)[:, None]
        start = start.repeat(1, len(y))
        return minimise(y.T, b, start, lower[:, None], upper[:, None], max_iterations=MAX_ITERATIONS)


def _baseline(signals, b):
    """Mean signal at the lowest b-value, and where it and all others can be used."""
    start = signals[..., b == b.min()].mean(axis=-1)
    return start, np.isfinite(signals).all(axis=-1) & (start > 0)

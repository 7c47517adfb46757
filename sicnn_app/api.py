"""Arrays in, maps out: the app's estimation for Python programs, without files, logs or global state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sicnn_app.errors import DataError, UsageError
from sicnn_app.ivim.parameters import TISSUE_LABELS
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.methods import METHODS, estimator
from sicnn_app.phantoms.acquire import DEFAULT_BVALS, acquire, noise_sigma
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.preprocess.average import average_repeats
from sicnn_app.preprocess.choose_average import choose_average
from sicnn_app.preprocess.mask import check_mask
from sicnn_app.preprocess.noise import estimate_noise
from sicnn_app.preprocess.resample import Resampling
from sicnn_app.preprocess.volumes import select_volumes
from sicnn_app.settings import EstimationSettings, ResourceSettings
from sicnn_app.system.device import choose_device, limited_threads


@dataclass(frozen=True)
class IvimMaps:
    """Maps of F, D, D* and S0 with what the method says of them.

    Every map has the shape of the mask, (X, Y, Z) or (X, Y), float32, and is NaN outside of the voxels that
    were estimated.

    Attributes
    ----------
    f : ndarray
        Perfusion fraction, 0 to 1.
    d, dstar : ndarray
        Diffusion and pseudo-diffusion coefficient, mm^2/s; D* is the full second exponent, not D* - D.
    s0 : ndarray
        Signal at b = 0, units of the signals.
    rmse : ndarray
        Root mean squared difference between predicted and averaged signals over the b-values, relative to S0.
    f_std, d_std, dstar_std : ndarray
        Standard deviations: of ``si-cnn`` how far the truth may be from the maps, of others over the networks
        of an ensemble (``EstimationSettings(ensemble=5)``); NaN everywhere where there are none.
    predicted : ndarray, shape (X, Y, Z, N) or (X, Y, N), units of the signals
        What the maps predict for every volume; NaN outside of the voxels that were estimated, and in volumes
        that hold no data.
    history : list of dict
        One row per data iteration: losses, epochs and how many training signals were replaced.
    sigma : float
        Noise standard deviation of one volume that was reckoned with, units of the signals.
    parameters : dict
        Settings as they were resolved for these data, as the sidecars of the app record them.
    """

    f: np.ndarray
    d: np.ndarray
    dstar: np.ndarray
    s0: np.ndarray
    rmse: np.ndarray
    f_std: np.ndarray
    d_std: np.ndarray
    dstar_std: np.ndarray
    predicted: np.ndarray
    history: list[dict[str, Any]]
    sigma: float
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Simulation:
    """A digital phantom with what a scanner would measure of it.

    Attributes
    ----------
    signals : ndarray, shape (X, Y, Z, N), float64, image units
    bvals : ndarray, shape (N,), s/mm^2
    mask : ndarray, shape (X, Y, Z), bool
        The body or the brain.
    f, d, dstar, s0 : ndarray, shape (X, Y, Z), float64
        The truth: a fraction, mm^2/s twice, image units; 0 outside the mask.
    labels : ndarray, shape (X, Y, Z), int16
        Code of the tissue; 0 is background.
    sigma : float
        Noise standard deviation of one volume, image units.
    """

    signals: np.ndarray
    bvals: np.ndarray
    mask: np.ndarray
    f: np.ndarray
    d: np.ndarray
    dstar: np.ndarray
    s0: np.ndarray
    labels: np.ndarray
    sigma: float


def estimate(
    signals: ArrayLike,
    bvals: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    method: str = "si-cnn",
    sigma: float | None = None,
    seed: int = 0,
    device: str = "auto",
    settings: EstimationSettings | None = None,
) -> IvimMaps:
    """Estimate F, D, D* and S0 of every voxel.

    Volumes of one b-value are averaged, as ``--average auto`` does for the body; nothing else is done
    to the signals: denoise and align them before.
    The numbers are those of the command line for the same averaged signals, mask, noise and seed.

    Parameters
    ----------
    signals : array_like, shape (X, Y, Z, N) or (X, Y, N)
        Magnitudes in any unit. The bi-exponential model breaks above about 1000 s/mm^2: leave higher b-values
        out.
    bvals : array_like, shape (N,), s/mm^2
        In any order, repeats allowed; at least four distinct ones.
    mask : array_like, shape (X, Y, Z) or (X, Y), bool, optional
        Voxels to estimate; by default all with a positive signal at the lowest b-value. Leave air out: the
        networks learn from every voxel of the mask.
    method : str
        One of :data:`sicnn_app.methods.METHODS`, as on the command line.
    sigma : float, optional
        Noise standard deviation of one volume, units of the signals; by default it is estimated from repeats,
        or else from what a smooth decay leaves over.
    seed : int
        Of the training; the same seed gives the same maps on one CPU model.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    settings : EstimationSettings, optional
        Everything else, method and seed included.

    Returns
    -------
    IvimMaps

    Raises
    ------
    UsageError
        For an unknown method, or one (or a seed) that contradicts ``settings``.
    DataError
        When shapes disagree, b-values are too few or no numbers, or no voxel has usable signals.
    DeviceError
        When the device that was asked for is not there.
    TryAgainError
        When the memory does not suffice.

    Examples
    --------
    >>> import numpy as np
    >>> import sicnn_app
    >>> phantom = sicnn_app.simulate("abdomen", shape=(24, 20, 1), snr=60, seed=1)
    >>> maps = sicnn_app.estimate(phantom.signals, phantom.bvals, phantom.mask, method="lsq")
    >>> maps.f.shape, bool(np.isnan(maps.f[~phantom.mask]).all())
    ((24, 20, 1), True)
    >>> error = np.abs(maps.d - phantom.d)[phantom.mask]
    >>> bool(np.median(error / phantom.d[phantom.mask]) < 0.1)
    True
    """
    chosen = _settings(method, seed, settings)
    values, volumes = _volumes(signals), np.asarray(bvals)
    flat = values.ndim == 3
    if flat:
        values = values[:, :, None]
    if volumes.ndim != 1 or volumes.dtype.kind not in "iuf" or not np.isfinite(volumes).all():
        raise DataError("bvals must be one row of finite numbers in s/mm^2")
    if (volumes < 0).any():
        raise DataError(f"b-values are 0 or more, not {volumes.min():g}")
    if sigma is not None and not (math.isfinite(sigma) and sigma >= 0):
        raise UsageError(f"sigma must be a number of 0 or more in the units of the signals, not {sigma}")
    series = DwiSeries(values, volumes.astype(np.float64), None, np.eye(4))
    used, _, _ = select_volumes(series, max_bval=math.inf, ignore_bvals=())
    inside = _mask(mask, values.shape[:3], flat)
    average = average_repeats(used, inside, choose_average("auto", used, inside, "body")[0])
    if sigma is None:
        found_noise = estimate_noise(used, average)
        averaged = average.with_noise(found_noise.sigma, found_noise.method, found_noise.averaged)
    else:
        averaged = average.with_noise(float(sigma), "given")
    with limited_threads(ResourceSettings.omp_nthreads):
        found = estimator(chosen.method).estimate(
            averaged.signals,
            averaged.mask,
            averaged.bvals,
            noise=averaged.noise,
            volumes=averaged.repeats,
            sigma=averaged.sigma,
            settings=chosen,
            device=choose_device(device)[0],
            fall_back=device == "auto",
            resample=Resampling.of(used, averaged) if chosen.ensemble > 1 else None,
        )
    predicted = np.full(values.shape, np.nan, dtype=np.float32)
    for index, members in enumerate(average.groups.members):
        for volume in np.concatenate(members):
            predicted[averaged.mask, used.source_volumes[volume]] = found.predicted[averaged.mask, index]
    nothing = np.full(averaged.mask.shape, np.nan, dtype=np.float32)
    maps = {f"{label}_std": nothing for label in TISSUE_LABELS} | found.maps | {"predicted": predicted}
    if flat:
        maps = {label: array[:, :, 0] for label, array in maps.items()}
    return IvimMaps(
        **{name: maps[name] for name in IvimMaps.__dataclass_fields__ if name in maps},
        history=found.history,
        sigma=averaged.sigma,
        parameters=found.parameters,
    )


def simulate(
    preset: str = "abdomen",
    bvals: Sequence[float] | None = None,
    *,
    shape: tuple[int, int, int] | None = None,
    snr: float = math.inf,
    seed: int = 0,
    texture: float = 0.1,
) -> Simulation:
    """Make a digital phantom with known F, D and D*, and a noisy acquisition of it.

    Parameters
    ----------
    preset : {'abdomen', 'brain'}
    bvals : sequence of float, s/mm^2
        One volume each; name a b-value twice for two. By default those of ``sicnn-simulate``.
    shape : tuple of int, (X, Y, Z), optional
        The field of view is fixed, so the voxel size follows.
    snr : float
        Mean true S0 over the mask divided by the noise of one channel, for a single volume; the noise is
        Rician. Infinity: no noise.
    seed : int
        Of texture and noise.
    texture : float
        Standard deviation of the truth within a tissue, relative to the tissue's value.

    Returns
    -------
    Simulation

    Raises
    ------
    UsageError
        For an unknown preset, a shape that is not three positive numbers, no tissue in it, or an SNR that is
        not above 0.

    Examples
    --------
    >>> import sicnn_app
    >>> phantom = sicnn_app.simulate("brain", [0, 50, 200, 800], shape=(16, 16, 2), snr=40)
    >>> phantom.signals.shape, phantom.mask.shape
    ((16, 16, 2, 4), (16, 16, 2))
    """
    phantom = make_phantom(preset, shape, seed=[seed, 0], texture=texture)
    volumes = np.asarray(DEFAULT_BVALS[preset] if bvals is None else bvals, dtype=np.float64)
    return Simulation(
        signals=acquire(phantom, volumes, snr=snr, seed=[seed, 1]),
        bvals=volumes,
        sigma=noise_sigma(phantom, snr),
        **{name: getattr(phantom, name) for name in ("mask", "f", "d", "dstar", "s0", "labels")},
    )


def _settings(method: str, seed: int, settings: EstimationSettings | None) -> EstimationSettings:
    if settings is None:
        if method not in METHODS:
            raise UsageError(f"the method must be one of {', '.join(METHODS)}, not {method!r}")
        return EstimationSettings(method=method, random_seed=seed)
    plain = EstimationSettings()
    for name, given, usual, chosen in (
        ("method", method, plain.method, settings.method),
        ("seed", seed, plain.random_seed, settings.random_seed),
    ):
        if given not in (usual, chosen):
            raise UsageError(f"{name} {given!r} contradicts settings, which say {chosen!r}: give one of them")
    return settings


def _volumes(signals: ArrayLike) -> np.ndarray:
    values = np.asarray(signals)
    if values.dtype.kind not in "iuf":
        raise DataError(f"the signals must be real numbers, magnitudes of the images, not {values.dtype}")
    if values.ndim not in (3, 4):
        raise DataError(f"the signals must have the shape (X, Y, Z, N) or (X, Y, N), not {values.shape}")
    return values.astype(np.float32)


def _mask(mask: ArrayLike | None, shape: tuple[int, ...], flat: bool) -> np.ndarray:
    if mask is None:
        return np.ones(shape, dtype=bool)
    voxels = np.asarray(mask)
    if flat and voxels.ndim == 2:
        voxels = voxels[:, :, None]
    if voxels.dtype.kind not in "biuf":
        raise DataError(f"the mask must hold true and false, or numbers, not {voxels.dtype}")
    return check_mask(voxels != 0, shape)

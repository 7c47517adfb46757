"""What tissue can give: the signals of volumes that other volumes of the series let expect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.linalg import eigh

TISSUES = 1500
"""Random tissues that say which decays there are; twice as many change nothing in what is found."""

MAX_SHAPES = 40
"""Most shapes of decays over the volumes that are told apart."""

LEAST_SHARE = 1e-7
"""A shape that holds less of the mean square of all decays is counted as scatter."""

BODY_ANISOTROPY = 0.4
"""Muscle and kidney beside white matter, whose share of anisotropic diffusion is up to 1."""

FLUCTUATION = 0.03
"""Relative; what a block changes from volume to volume by pulsation, drift and imperfect models."""

LEAST_VARIANCE = 1e-12
"""Least variance of a block's signals, which are about 1."""

MOST_NUMBERS = 500_000
"""Of one array while blocks are predicted; more blocks come in parts."""

FIBRE_EXCESS = 1.0e-3
"""mm^2/s; diffusion along fibres of white matter beyond the mean (1.7 - 0.77)."""

ENOUGH_DIRECTIONS = 12
"""Twice the numbers of a tensor; with fewer, one direction is not told by the others."""

_DIRECTIONS = 12
"""Directions over which a decay is averaged where the table states none."""


@dataclass(frozen=True)
class DecayPrior:
    """Gaussian of the decays of tissue over the volumes of a table: features @ N(0, 1) + scatter.

    Attributes
    ----------
    features : ndarray, shape (N, R)
        In units of the signal without weighting.
    scatter : ndarray, shape (N,)
        Variance of what the features leave, above all of directions that the table does not state.
    unstated : ndarray, shape (N,)
        Logarithm by which fibres along the direction can lower a signal, where it is not stated or the
        table has too few others to tell.
    """

    features: np.ndarray
    scatter: np.ndarray
    unstated: np.ndarray

    @classmethod
    def of_table(cls, bvals: np.ndarray, bvecs: np.ndarray | None, anatomy: str, floor: float = 0.0) -> Self:
        """Second moments over random tissues: perfusion, free water, crossing fibres.

        Amplitudes of fast decay, slow decay and fibres are drawn at random, D from 0.1e-3 to 3.2e-3,
        D* from 4e-3 to 0.3 mm^2/s; one or two fibres of random direction. They stand for what is possible,
        not for what is frequent, so that no tissue is a contradiction.

        Parameters
        ----------
        bvals : ndarray, shape (N,), s/mm^2
        bvecs : ndarray, shape (N, 3), or None
            Of any length; without direction where 0 or not finite.
        anatomy : str
            ``brain`` or ``body``.
        floor : float
            Noise floor relative to the signal without weighting.
        """
        rng = np.random.default_rng(0)
        perfusion, fibres = rng.beta(0.6, 2.4, TISSUES), rng.beta(0.5, 0.7, TISSUES)
        anisotropy = 1.0 if anatomy == "brain" else BODY_ANISOTROPY
        fibres *= anisotropy
        slow, fast, along = (
            np.exp(rng.uniform(np.log(low), np.log(high), TISSUES))
            for low, high in ((1e-4, 3.2e-3), (4e-3, 0.3), (8e-4, 2.5e-3))
        )
        across = along * rng.uniform(0.1, 1.0, TISSUES)
        axes = rng.standard_normal((2, TISSUES, 3))
        axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
        mixed = rng.choice([0.0, 0.5], TISSUES)
        unit = np.zeros((np.size(bvals), 3))
        if bvecs is not None:
            lengths = np.linalg.norm(bvecs, axis=1)[:, None]
            np.divide(bvecs, lengths, out=unit, where=np.isfinite(lengths) & (lengths > 0))
        # Repeats are one row, and take one row's time and memory.
        rows, place = np.unique(np.column_stack([bvals, unit]), axis=0, return_inverse=True)
        b, unit, stated = rows[:, 0], rows[:, 1:], rows[:, 1:].any(axis=1)

        def fibre_decays(vectors: np.ndarray) -> np.ndarray:
            one, two = (
                np.exp(-b * (across[:, None] + (along - across)[:, None] * (axis @ vectors.T) ** 2))
                for axis in axes
            )
            return (1 - mixed)[:, None] * one + mixed[:, None] * two

        share = ((1 - perfusion) * fibres)[:, None]
        fibre, scatter = fibre_decays(unit), np.zeros(b.size)
        if not stated.all():
            every = rng.standard_normal((_DIRECTIONS, 3))
            every /= np.linalg.norm(every, axis=1, keepdims=True)
            spread = [fibre_decays(np.broadcast_to(vector, unit.shape))[:, ~stated] for vector in every]
            fibre[:, ~stated] = np.mean(spread, axis=0)
            scatter[~stated] = np.mean((share * np.std(spread, axis=0)) ** 2, axis=0)
        decays = perfusion[:, None] * np.exp(-np.outer(fast, b)) + share * fibre
        decays += ((1 - perfusion) * (1 - fibres))[:, None] * np.exp(-np.outer(slow, b))
        decays += floor * rng.uniform(0, 1, (TISSUES, 1))
        moments = decays.T @ decays / TISSUES
        squares, shapes = eigh(moments, subset_by_index=[max(0, b.size - MAX_SHAPES), b.size - 1])
        kept = squares > LEAST_SHARE * np.trace(moments)
        features = shapes[:, kept] * np.sqrt(squares[kept])
        scatter += np.maximum(np.diag(moments) - np.square(features).sum(axis=1), 0.0)
        told = stated & (np.unique(unit[stated], axis=0).shape[0] >= ENOUGH_DIRECTIONS)
        unstated = np.where(told, 0.0, anisotropy * FIBRE_EXCESS * b)
        place = place.ravel()
        return cls(features[place], scatter[place], unstated[place])

    def of_volumes(self, order: np.ndarray) -> DecayPrior:
        """The same for some volumes, or in another order."""
        return DecayPrior(self.features[order], self.scatter[order], self.unstated[order])


@dataclass(frozen=True)
class Expectation:
    """Signals that the other volumes let expect, all of shape (K, N).

    Attributes
    ----------
    levels : ndarray
        In units of the blocks' amplitudes; of every volume from the others.
    deviation : ndarray
        Standard deviation of the volume's own signal around it, same units.
    """

    levels: np.ndarray
    deviation: np.ndarray


def expect(signals: np.ndarray, variance: np.ndarray, used: np.ndarray, prior: DecayPrior) -> Expectation:
    """Predict every volume of every block from its other volumes.

    Bayesian linear regression on the shapes of a prior; the leave-one-out prediction of a volume
    follows from its leverage h: (fitted - h y) / (1 - h), with variance v / (1 - h).

    Parameters
    ----------
    signals : ndarray, shape (K, N)
        Of K blocks, about 1 without weighting.
    variance : ndarray, shape (K, N)
        Of the noise, same units.
    used : ndarray, shape (K, N), bool
        What may serve to predict others.
    prior : DecayPrior
    """
    features = prior.features
    at_a_time = max(1, MOST_NUMBERS // features.size)
    if len(signals) > at_a_time:
        parts = [
            expect(signals[k : k + at_a_time], variance[k : k + at_a_time], used[k : k + at_a_time], prior)
            for k in range(0, len(signals), at_a_time)
        ]
        return Expectation(
            np.concatenate([part.levels for part in parts]),
            np.concatenate([part.deviation for part in parts]),
        )
    total = variance + prior.scatter
    # Below that the precision of a block that one value dwarfs cannot be inverted.
    weights = used / np.maximum(total, LEAST_VARIANCE)
    precision = np.eye(features.shape[1]) + (features.T * weights[:, None, :]) @ features
    covariance = np.linalg.inv(precision)
    projected = features @ covariance
    uncertainty = np.einsum("knr,nr->kn", projected, features)
    fitted = np.einsum("knr,kr->kn", projected, (weights * np.where(used, signals, 0.0)) @ features)
    leverage = np.minimum(weights * uncertainty, 1 - 1e-6)
    levels = (fitted - leverage * signals) / (1 - leverage)
    deviation = np.sqrt(np.where(used, total / (1 - leverage), total + uncertainty))
    return Expectation(np.where(np.isfinite(levels), levels, fitted), deviation)


def misfits(signals: np.ndarray, variance: float, prior: DecayPrior) -> np.ndarray:
    """Squared distance of blocks from what tissue can give, per volume; about 1 where the table fits.

    y' (Phi Phi' + V)^-1 y / N of the prior's features Phi and the noise V.

    Parameters
    ----------
    signals : ndarray, shape (K, N)
        About 1 without weighting.
    variance : float
        Of the noise.
    prior : DecayPrior

    Returns
    -------
    ndarray, shape (K,)
    """
    root = 1 / np.sqrt(variance + prior.scatter)
    features, scaled = prior.features * root[:, None], signals * root
    precision = np.eye(features.shape[1]) + features.T @ features
    projected = np.linalg.solve(np.linalg.cholesky(precision), (scaled @ features).T)
    return ((scaled**2).sum(axis=1) - (projected**2).sum(axis=0)) / signals.shape[1]

"""The bootstrap of a series: averages that other repeats of the same measurement might have given."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sicnn_app.ivim.resampling import add_noise
from sicnn_app.ivim.series import AveragedSignals, DwiSeries
from sicnn_app.preprocess.average import (
    VolumeGroups,
    group_volumes,
    mean_of_volumes,
    mean_over_directions,
    robust_mean,
)
from sicnn_app.preprocess.noise import Denoising, plain_average

MIN_REPEATS = 3
"""Repeats of every direction of a b-value from which on they are drawn anew; fewer say too little about how
much repeats differ, and noise is added instead."""


@dataclass(frozen=True)
class Resampling:
    """Draws averaged signals as another measurement might have given them.

    A b-value with enough repeats is bootstrapped: of the n repeats of every direction n are drawn with
    replacement, the same in all voxels, which keeps what neighbouring voxels have in common, such as
    breathing. Directions are kept: what differs between them is anisotropy and no noise. A mean of n drawn
    repeats varies too little, by the factor sqrt((n - 1) / n) (Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, section 5.3); its distance from the measured mean of the direction is stretched
    accordingly. To other b-values noise of the estimated size is added.

    Denoised repeats share much of the noise that is left in them. Of a denoised series it is drawn by
    denoising the acquired images with as much thermal noise again; by how much repeats differ beyond that is
    bootstrapped besides.

    ``series`` is that before averaging.
    """

    series: DwiSeries
    averaged: AveragedSignals
    groups: VolumeGroups
    denoising: Denoising | None = None

    @classmethod
    def of(
        cls, series: DwiSeries, averaged: AveragedSignals, denoising: Denoising | None = None
    ) -> Resampling:
        """Resampling of a series, its volumes grouped by b-value and direction."""
        return cls(series, averaged, group_volumes(series), denoising)

    @property
    def ways(self) -> tuple[str, ...]:
        """``bootstrap`` or ``noise`` of every b-value, after ``denoised noise`` where the series was."""
        enough = (min(map(len, directions)) >= MIN_REPEATS for directions in self.groups.members)
        if self.denoising is None:
            return tuple("bootstrap" if one else "noise" for one in enough)
        return tuple("denoised noise, bootstrap" if one else "denoised noise" for one in enough)

    def __call__(self, generator: np.random.Generator) -> np.ndarray:
        """Averaged signals, shape (X, Y, Z, B), float32; as measured outside the mask."""
        measured, mask = self.averaged.signals, self.averaged.mask
        errors = None
        if self.denoising is None:
            drawn = add_noise(measured, mask, self.averaged.noise, generator)
        else:
            errors = self._errors(self.denoising, generator)
            drawn = measured.astype(np.float32)
            drawn[mask] += plain_average(errors, self.groups, mask)
        for index, (way, directions) in enumerate(zip(self.ways, self.groups.members, strict=True)):
            if not way.endswith("bootstrap"):
                continue
            mean = self._drawn(directions, measured[mask, index], generator)
            distance = np.where(np.isfinite(mean), mean - measured[mask, index], 0.0)
            if errors is None:
                drawn[mask, index] = measured[mask, index] + distance
            else:
                drawn[mask, index] += distance * self._beyond_errors(errors, directions)
        return drawn

    def _errors(self, denoising: Denoising, generator: np.random.Generator) -> np.ndarray:
        """What thermal noise, as much again, changes of the denoised images, shape (X, Y, Z, N)."""
        acquired = denoising.acquired
        noise = generator.standard_normal(acquired.signals.shape, dtype=np.float32)
        noise *= np.float32(self.averaged.sigma)
        noise *= np.any(acquired.signals, axis=-1, keepdims=True)
        again = denoising.redo(replace(acquired, signals=acquired.signals + noise)).signals
        return np.nan_to_num(again - denoising.denoised.signals)

    def _beyond_errors(self, errors: np.ndarray, directions: tuple[np.ndarray, ...]) -> float:
        """Share of the spread of denoised repeats that thermal noise does not explain."""
        mask = self.averaged.mask
        left, seen = (
            sum(
                np.nanvar([signals[..., volume][mask] for volume in volumes], axis=0).mean()
                for volumes in directions
            )
            for signals in (errors, self.series.signals)
        )
        return float(np.sqrt(max(1.0 - left / seen, 0.0))) if seen > 0 else 0.0

    def _drawn(
        self, directions: tuple[np.ndarray, ...], measured: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        """Average of a b-value if other repeats of its directions had been measured, shape (V,)."""
        if self.averaged.average == "robust":
            drawn = [generator.choice(volumes, volumes.size) for volumes in directions]
            mean, _ = robust_mean(self.series.signals, drawn, self.averaged.mask)
            count = np.mean([volumes.size for volumes in directions])
            return measured + (mean - measured) * np.sqrt(count / (count - 1))
        means = (self._drawn_mean(volumes, generator) for volumes in directions)
        geometric = self.averaged.average == "geometric"
        return mean_over_directions(means, measured.size, geometric=geometric)[0]

    def _drawn_mean(self, volumes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Mean of the repeats of a direction if others of them had been measured, shape (V,)."""
        signals, mask, count = self.series.signals, self.averaged.mask, volumes.size
        kept = mean_of_volumes(signals, volumes, mask)
        mean = mean_of_volumes(signals, generator.choice(volumes, count), mask)
        distance = np.where(np.isfinite(mean), mean - kept, 0.0)
        return kept + distance * np.sqrt(count / (count - 1))

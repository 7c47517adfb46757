"""Every volume of a series judged: its level, where it lost signal, and what it looks like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.ndimage import label

from sicnn_app.ivim.bvalues import group_bvalues
from sicnn_app.ivim.carpet import Carpet
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.preprocess.blocks import Blocks, cut
from sicnn_app.preprocess.carpet import carpet_of
from sicnn_app.preprocess.contradictions import (
    Contradiction,
    check_order,
    check_table,
    find_gain,
    find_unequal_groups,
)
from sicnn_app.preprocess.expected import FLUCTUATION, DecayPrior, expect
from sicnn_app.preprocess.saturation import saturation_levels
from sicnn_app.preprocess.volumes import ranges

MIN_BLOCKS = 10
"""With fewer nothing is held against others: noise alone could contradict a table."""

MIN_OFF = 0.10
"""Relative; a whole volume that is off by less is not told from what scanners and bodies do."""

MIN_LOST = 0.20
"""Relative; a block that lost less of its signal has not fallen out."""

FAR_VOLUME, FAR_BLOCK = 3.5, 4.5
"""Standard deviations beyond which half the blocks of a volume, or one block, disagree."""

MIN_SHARE, MIN_PIECE = 0.08, 3
"""Of the tissue of a slice, and blocks, in one piece: less is flow or the edge of a moving organ."""

MIN_OF_REGION = 0.5
"""Of a region of a segmentation; that much fell out counts, however small it is."""

MIN_DEPTH = 0.3
"""Relative; what a piece lost in the middle."""

MAX_SUSPECTS = 8
"""Volumes that are taken out together before each is held against the rest."""

NAMED = 0.2
"""Share of a region from which on a warning names it; of less, blocks only reach into it."""

WHOLE = 0.6
"""Share of the tissue from which on signal was lost in the volume, not in a place."""

SPIKED = 2.5
"""Times the usual scatter within blocks, in most blocks."""

OTHER_BACKGROUND = 4.0
"""Times as bright or dark outside of tissue as the other volumes: no image of this series."""

OTHER_PATTERN = 0.25
"""Spread of the logarithm over blocks; an image with as much shows something else."""

FOUND = {
    "dropout": "signal was lost in a place, or in all of the volume: motion, pulsation",
    "spike": "noise far above that of the other volumes: a spike in k-space, interference",
    "not in steady state": "the first volumes are brighter by one factor",
    "derived map": "no measured signal: an ADC, FA or trace map among the volumes",
    "fits no b-value": "its level contradicts the other volumes at the b-value the table gives it",
    "saturated": "values pile up at the largest one: they were cut off",
    "other gain": "a part of the series is brighter or darker by one factor",
    "negative values": "some values are below 0: the image was interpolated or denoised before",
}
"""What can be found in a volume, with what it means."""

LEAVES_OUT = ("spike", "not in steady state", "derived map", "fits no b-value")
"""Findings for which a volume is not used; the others are weighed by the average or only said."""

HARMLESS = ("negative values",)
"""Findings that are told in the table and not among the volumes in question."""


@dataclass(frozen=True)
class JudgedVolume:
    """One volume of the source image.

    Attributes
    ----------
    volume : int
        Counted from 0 in the source image.
    bval : float, s/mm^2
        As used: with the strength in the length of its vector where that was found.
    direction : tuple of three floats, or None
    level_in_group : float
        Relative to the median of the volumes of its b-value; median over blocks.
    level_to_decay : float
        Relative to what all other volumes let expect; median over blocks.
    fell_out : float
        Share of the voxels of tissue.
    fell_out_by_slice : dict of int to float
        Slices in which any did, counted from 0.
    fell_out_by_region : dict of str to float
        Regions in which any did.
    found : tuple of str
        Keys of :data:`FOUND`.
    used : bool
    """

    volume: int
    bval: float
    direction: tuple[float, float, float] | None
    level_in_group: float
    level_to_decay: float
    fell_out: float = 0.0
    fell_out_by_slice: dict[int, float] = field(default_factory=dict)
    fell_out_by_region: dict[str, float] = field(default_factory=dict)
    found: tuple[str, ...] = ()
    used: bool = True

    def row(self, used: bool) -> dict[str, Any]:
        """One row of the table of volumes; None where there is nothing to say."""

        def number(value: float) -> float | None:
            return round(value, 4) if np.isfinite(value) else None

        def places(shares: Mapping[Any, float]) -> str | None:
            return "; ".join(f"{place}: {share:.2g}" for place, share in shares.items()) or None

        x, y, z = self.direction or (None, None, None)
        return {
            "volume": self.volume,
            "b_value": self.bval,
            "direction_x": x,
            "direction_y": y,
            "direction_z": z,
            "level_in_group": number(self.level_in_group),
            "level_to_decay": number(self.level_to_decay),
            "fell_out": number(self.fell_out),
            "fell_out_slices": places(self.fell_out_by_slice),
            "fell_out_regions": places(self.fell_out_by_region),
            "found": ", ".join(self.found) or "nothing",
            "used": "yes" if used else "no",
            "weight": int(used),
        }

    @property
    def in_question(self) -> bool:
        """Something was found that is worth a look."""
        return any(name not in HARMLESS for name in self.found)


@dataclass(frozen=True)
class Judgement:
    """What was found in a series.

    Attributes
    ----------
    volumes : tuple of JudgedVolume
    contradictions : tuple of Contradiction
        Between the images and what is written of them.
    bvals : ndarray, shape (N,), s/mm^2
        To be used.
    cut_off : ndarray, shape (N,)
        See :func:`sicnn_app.preprocess.saturation.saturation_levels`.
    said : tuple of str
        What else a user should know.
    carpet : Carpet or None
        None where nothing was held against others, or the table cannot be right.
    """

    volumes: tuple[JudgedVolume, ...]
    contradictions: tuple[Contradiction, ...]
    bvals: np.ndarray
    cut_off: np.ndarray
    said: tuple[str, ...] = ()
    carpet: Carpet | None = None

    @property
    def unfit(self) -> dict[str, np.ndarray]:
        """Volumes not to be used, shape (N,), bool, by the reason."""
        return {
            f"that look like “{name}” ({FOUND[name]})": np.array(
                [not volume.used and name in volume.found for volume in self.volumes], dtype=bool
            )
            for name in LEAVES_OUT
        }

    @property
    def warnings(self) -> list[str]:
        """What a user should know; volumes that are left out are named where that is done."""
        lines = [*map(str, self.contradictions), *self.said]
        lost = [volume for volume in self.volumes if "dropout" in volume.found and volume.used]
        if lost:
            regions = dict.fromkeys(
                region
                for volume in lost
                for region, share in volume.fell_out_by_region.items()
                if share >= NAMED
            )
            where = f", in {', '.join(regions)}" if regions else ""
            plural = "s" if len(lost) > 1 else ""
            volumes = ranges([volume.volume for volume in lost])
            lines.append(
                f"signal was lost to motion or pulsation in parts of volume{plural} {volumes} "
                f"(counted from 0){where}: see desc-volumes_qc.tsv"
            )
        return lines

    @property
    def record(self) -> dict[str, Any]:
        """One row of the preprocessing steps."""
        found = {name: [volume.volume for volume in self.volumes if name in volume.found] for name in FOUND}
        named = "; ".join(f"{name}: {ranges(of)}" for name, of in found.items() if of) or "nothing found"
        return {
            "Name": "Judgement of volumes",
            "Description": f"{len(self.volumes)} volumes held against each other and their b-values; {named}",
            "VolumesInQuestion": [volume.volume for volume in self.volumes if volume.in_question],
            "Contradictions": [str(contradiction) for contradiction in self.contradictions],
        }

    def rows(self, used: np.ndarray) -> list[dict[str, Any]]:
        """The table of volumes; ``used`` are the volumes of the source image that went on."""
        chosen = set(used.tolist())
        return [volume.row(volume.volume in chosen) for volume in self.volumes]


def judge(
    series: DwiSeries,
    *,
    anatomy: str = "body",
    regions: tuple[np.ndarray, Mapping[int, str]] | None = None,
    ignored: np.ndarray | None = None,
) -> Judgement:
    """Hold every volume of a series, as it was read, against the others and against the gradient table.

    Block means of about 5 x 5 voxels are predicted from the other volumes by :func:`expect`, which knows
    what decays of tissue look like, anisotropy and noise floor included. Volumes that disagree in most
    blocks are taken out one after the other and then held against what the rest expects; so are single
    blocks. Noise is what varies within blocks; the scatter that is left of a series (breathing, pulsation)
    widens it.

    Parameters
    ----------
    series : DwiSeries
    anatomy : str
        ``brain`` or ``body``: how far diffusion may depend on a direction that is not stated.
    regions : (ndarray, shape (X, Y, Z), int; mapping of int to str), optional
        Segmentation, 0 outside, and the names of its regions.
    ignored : ndarray, shape (N,), bool, optional
        Volumes that are not looked at.

    Returns
    -------
    Judgement
    """
    segmentation, names_of_regions = regions if regions is not None else (None, {})
    blocks = cut(series.signals, series.slice_axis)
    count = series.bvals.size
    cut_off = saturation_levels(series.signals)
    plain = _found_without_others(blocks, cut_off)
    with_data = np.isfinite(blocks.means).mean(axis=0) > 0.5 if blocks.sizes.size else np.zeros(count, bool)
    with_data &= np.nan_to_num(np.abs(blocks.means)).max(axis=0, initial=0) > 0
    if ignored is not None:
        with_data &= ~ignored
    if with_data.sum() < 4 or blocks.sizes.size < MIN_BLOCKS or not np.isfinite(blocks.sigma):
        rows = [_row(series, series.bvals, i, np.nan, np.nan, plain[i]) for i in range(count)]
        return Judgement(tuple(rows), (), series.bvals, cut_off)
    signals, sigma = _normalised(blocks, with_data)
    floor = 1.5 * float(np.median(sigma * np.sqrt(blocks.sizes)))
    noise = float(np.median(sigma**2)) + FLUCTUATION**2

    def prior_of(bvals: np.ndarray, bvecs: np.ndarray | None) -> DecayPrior:
        return DecayPrior.of_table(bvals, bvecs, anatomy, floor)

    usable = series.select(with_data)
    positions = np.flatnonzero(with_data)
    gain = find_gain(
        usable.bvals, usable.source_volumes, signals, noise, prior_of(usable.bvals, usable.bvecs)
    )
    found = [set(one) for one in plain]
    contradictions: list[Contradiction] = []
    factors = np.ones(positions.size)
    if gain is not None:
        factors = gain.factors
        signals = signals / factors
        texture = blocks.texture.copy()
        texture[:, positions] /= factors
        blocks = replace(blocks, texture=texture)
        contradictions += gain.contradictions
        for i in gain.volumes:
            found[positions[i]].add(gain.name)
    table = check_table(usable, signals, noise, prior_of)
    bvals = series.bvals.copy()
    bvals[positions] = table.bvals
    contradictions += table.contradictions
    hopeless = table.hopeless
    unequal = (
        [] if hopeless else find_unequal_groups(table.bvals, usable.source_volumes, signals, table.prior)
    )
    kept = np.zeros(positions.size, dtype=bool)
    for group in unequal:
        if group.contradiction is not None:
            contradictions.append(group.contradiction)
            kept[group.volumes] = True
        for i in group.volumes:
            found[positions[i]].add(group.name)
    held = _hold(signals, sigma, table.bvals, table.prior)
    if not hopeless and not unequal:
        in_another_order = check_order(usable, table.bvals, signals, held.off)
        if in_another_order is not None:
            contradictions.append(in_another_order)
            hopeless = True
    said = list(table.said)
    with np.errstate(invalid="ignore", divide="ignore"):
        departures = np.log(np.maximum(signals, floor / 2) / np.maximum(held.expected, floor / 2))
    nominal, index = group_bvalues(table.bvals)
    middles = np.column_stack([np.median(signals[:, index == b], axis=1) for b in range(nominal.size)])
    middles = np.maximum(middles, 1e-3)
    rows = [_row(series, bvals, i, np.nan, np.nan, found[i]) for i in range(count)]
    fallen = np.zeros((blocks.sizes.size, count), dtype=bool)
    for j, i in enumerate(positions.tolist()):
        level = float(factors[j] * np.median(signals[:, j] / middles[:, index[j]]))
        to_decay = float(factors[j] * np.exp(np.median(departures[:, j])))
        names = set(found[i])
        lost = fallen[:, i]
        if not hopeless:
            # What a fibre along an unknown direction loses is not lost to motion.
            departure = departures[:, j] + table.prior.unstated[j]
            lost[:] = _in_one_piece(departure, held.z[:, j], blocks, segmentation)
            if not kept[j]:
                names |= _name_volume(j, i, to_decay, held, departures, lost, blocks)
        row = _row(series, bvals, i, level, to_decay, names)
        if lost.any():
            row = replace(row, **_where(lost, blocks, segmentation, names_of_regions))
        if not kept[j] and any(name in LEAVES_OUT for name in names):
            row = replace(row, used=False)
        rows[i] = row
    carpet = None
    if not hopeless:
        ratios = np.full(fallen.shape, np.nan)
        ratios[:, positions] = factors * np.exp(departures)
        in_question = np.array([row.in_question for row in rows])
        carpet = carpet_of(replace(series, bvals=bvals), blocks, ratios, fallen, in_question, regions)
    return Judgement(tuple(rows), tuple(contradictions), bvals, cut_off, tuple(said), carpet)


@dataclass(frozen=True)
class _Held:
    """Volumes against the rest, shapes (K, N); ``off``, shape (N,), bool: most blocks disagree."""

    expected: np.ndarray
    z: np.ndarray
    off: np.ndarray


def _hold(signals: np.ndarray, sigma: np.ndarray, bvals: np.ndarray, prior: DecayPrior) -> _Held:
    """Predict all volumes from those that agree."""
    used = np.isfinite(signals)
    signals = np.where(used, signals, 0.0)
    level = np.maximum(np.median(signals, axis=0), 0.0)
    variance = sigma[:, None] ** 2 + (FLUCTUATION * np.maximum(signals, 0.5 * level)) ** 2
    suspects: list[int] = []
    for _ in range(min(MAX_SUSPECTS, bvals.size // 4)):
        expected = expect(signals, variance, used, prior)
        apart = signals - expected.levels
        scores = np.median(np.abs(apart) / expected.deviation, axis=0)
        departure = np.median(apart, axis=0) / np.maximum(np.median(expected.levels, axis=0), 1e-6)
        scores[suspects] = 0
        scores[np.abs(departure) < MIN_OFF / 2] = 0
        worst = int(np.argmax(scores))
        if scores[worst] < 1.5:
            break
        suspects.append(worst)
        used[:, worst] = False
    variance = variance * _widening(signals, variance, used, prior, bvals) ** 2
    off = np.zeros(bvals.size, dtype=bool)
    while True:
        expected = expect(signals, variance, used, prior)
        z = (signals - expected.levels) / expected.deviation
        with np.errstate(invalid="ignore", divide="ignore"):
            departure = np.median(signals / np.maximum(expected.levels, 1e-6), axis=0) - 1
        scores = np.abs(np.median(z, axis=0))
        off[:] = False
        # Across a fibre signals rise by half of what they fall along it.
        beyond = (departure > (1 + MIN_OFF) * np.exp(prior.unstated / 2) - 1) | (
            departure < (1 - MIN_OFF) * np.exp(-prior.unstated) - 1
        )
        off[suspects] = (scores[suspects] > FAR_VOLUME) & beyond[suspects]
        back = [i for i in suspects if not off[i]]
        if not back:
            break
        best = min(back, key=lambda i: scores[i])
        suspects.remove(best)
        used[:, best] = True
    for _ in range(min(5, bvals.size // 4)):
        size = np.abs(z) * used
        worst = np.argmax(size, axis=1)
        far = size[np.arange(len(size)), worst] > FAR_BLOCK
        if not far.any():
            break
        used[np.flatnonzero(far), worst[far]] = False
        expected = expect(signals, variance, used, prior)
        z = (signals - expected.levels) / expected.deviation
    return _Held(expected.levels, z, off)


def _widening(
    signals: np.ndarray, variance: np.ndarray, used: np.ndarray, prior: DecayPrior, bvals: np.ndarray
) -> np.ndarray:
    """Scatter that is left over the one assumed, 1 or more, of every volume by its b-value; shape (N,)."""
    expected = expect(signals, variance, used, prior)
    sizes = np.where(used, np.abs(signals - expected.levels) / expected.deviation, np.nan)
    overall = max(1.0, 1.4826 * float(np.nanmedian(sizes)))
    widening = np.full(bvals.size, overall)
    _, index = group_bvalues(bvals)
    for group in np.unique(index):
        members = (index == group) & used.any(axis=0)
        if members.sum() >= 4:
            widening[index == group] = max(1.0, 1.4826 * float(np.nanmedian(sizes[:, members])))
    return widening


def _normalised(blocks: Blocks, with_data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of blocks, shape (K, N), about 1 without weighting, and their noise, shape (K,)."""
    means = blocks.means[:, with_data]
    middle = np.nanmedian(means, axis=1, keepdims=True)
    means = np.where(np.isfinite(means), means, middle)
    amplitude = np.maximum(np.percentile(means, 90, axis=1), 1e-6 * np.abs(means).max())
    return means / amplitude[:, None], blocks.sigma / np.sqrt(blocks.sizes) / amplitude


def _found_without_others(blocks: Blocks, cut_off: np.ndarray) -> list[set[str]]:
    return [
        {
            name
            for name, holds in (
                ("saturated", np.isfinite(cut_off[i])),
                ("negative values", blocks.negative[i] > 0.001),
            )
            if holds
        }
        for i in range(blocks.negative.size)
    ]


def _name_volume(
    j: int,
    i: int,
    to_decay: float,
    held: _Held,
    departures: np.ndarray,
    lost: np.ndarray,
    blocks: Blocks,
) -> set[str]:
    """What a volume looks like; ``j`` counts those with data, ``i`` all."""
    departure, off = departures[:, j], held.off[j]
    # Half a per cent of the signal is no spike, however little noise there is.
    least = 0.005 * float(np.nanmedian(blocks.means))
    beyond = blocks.texture[:, i] - SPIKED * np.nanmedian(blocks.texture, axis=1) - least
    spiked = np.nanpercentile(beyond, 30) > 0
    if off and (_other_background(blocks, i) or _other_pattern(departure)):
        return {"derived map"}
    if _empty_background(blocks, i) and np.std(departure) > MIN_OFF:
        return {"derived map"}
    if spiked:
        return {"spike"}
    if not off:
        return {"dropout"} if lost.any() else set()
    if j == 0 and to_decay > 1:
        return {"not in steady state"}
    if lost.any() and np.average(lost, weights=blocks.sizes) < WHOLE:
        return {"dropout"}
    return {"fits no b-value"}


def _other_pattern(departure: np.ndarray) -> bool:
    """Blocks depart in many ways, and not because some lost signal while others did not."""
    low, high = np.percentile(departure, [16, 84])
    return bool(high - low > 2 * OTHER_PATTERN and abs(np.percentile(departure, 90)) > MIN_LOST)


def _empty_background(blocks: Blocks, i: int) -> bool:
    others = np.delete(blocks.zeros, i)
    others = others[np.isfinite(others)]
    return others.size > 0 and bool(blocks.zeros[i] > 0.5 + np.median(others))


def _other_background(blocks: Blocks, i: int) -> bool:
    others = np.delete(blocks.background, i)
    others = others[np.isfinite(others)]
    if not others.size or np.median(others) <= 0:
        return False
    ratio = blocks.background[i] / np.median(others)
    return bool(ratio > OTHER_BACKGROUND or ratio < 1 / OTHER_BACKGROUND)


def _in_one_piece(
    departure: np.ndarray, z: np.ndarray, blocks: Blocks, regions: np.ndarray | None
) -> np.ndarray:
    """Blocks that lost signal, hang together in a slice and are enough tissue; shape (K,), bool."""
    lost = (departure < np.log(1 - MIN_LOST)) & (z < -FAR_BLOCK)
    kept = np.zeros_like(lost)
    if lost.sum() < MIN_PIECE:
        return kept
    of_region = _blocks_of_fallen_regions(lost, blocks, regions)
    for k in np.unique(blocks.slices[lost]):
        here = np.flatnonzero(lost & (blocks.slices == k))
        plane = np.zeros(blocks.places.max(axis=0) + 1, dtype=bool)
        plane[tuple(blocks.places[here].T)] = True
        pieces, _ = label(plane, np.ones((3, 3)))
        of_block = pieces[tuple(blocks.places[here].T)]
        tissue = blocks.sizes[blocks.slices == k].sum()
        for piece in np.unique(of_block):
            members = here[of_block == piece]
            enough = blocks.sizes[members].sum() >= MIN_SHARE * tissue or of_region[members].any()
            deep = np.median(departure[members]) < np.log(1 - MIN_DEPTH)
            kept[members] = members.size >= MIN_PIECE and enough and deep
    return kept


def _blocks_of_fallen_regions(lost: np.ndarray, blocks: Blocks, regions: np.ndarray | None) -> np.ndarray:
    """Lost blocks in regions most of which are lost, shape (K,), bool."""
    found = np.zeros_like(lost)
    if regions is not None:
        inside = (blocks.labels >= 0) & (regions > 0)
        codes, block = regions[inside].astype(int), blocks.labels[inside]
        shares = np.bincount(codes, lost[block]) / np.maximum(np.bincount(codes), 1)
        found[block[shares[codes] >= MIN_OF_REGION]] = True
    return found & lost


def _where(
    lost: np.ndarray, blocks: Blocks, regions: np.ndarray | None, names: Mapping[int, str]
) -> dict[str, Any]:
    """Shares of voxels that fell out: overall, by slice and by region."""
    by_slice = {
        int(k): float(np.average(lost[blocks.slices == k], weights=blocks.sizes[blocks.slices == k]))
        for k in np.unique(blocks.slices[lost])
    }
    by_region = {}
    if regions is not None:
        inside = (blocks.labels >= 0) & (regions > 0)
        fallen = lost[blocks.labels[inside]]
        codes = regions[inside].astype(int)
        for code in np.unique(codes[fallen]):
            by_region[names.get(int(code), str(code))] = float(fallen[codes == code].mean())
    return {
        "fell_out": float(np.average(lost, weights=blocks.sizes)),
        "fell_out_by_slice": by_slice,
        "fell_out_by_region": by_region,
    }


def _row(series: DwiSeries, bvals, i: int, level: float, to_decay: float, found: set[str]) -> JudgedVolume:
    vector = None if series.bvecs is None else series.bvecs[i]
    direction = (
        None
        if vector is None or not np.isfinite(vector).all() or not vector.any()
        else (float(vector[0]), float(vector[1]), float(vector[2]))
    )
    return JudgedVolume(
        int(series.source_volumes[i]),
        float(bvals[i]),
        direction,
        level,
        to_decay,
        found=tuple(name for name in FOUND if name in found),
    )

"""The targets of speed, each a ratio to its limit; :mod:`benchmarks.speed.stages` measures what they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.common.metrics import LABELS
from benchmarks.speed.stage_cells import COMPETITORS, Cell, whole

Found = dict[Cell, dict[str, Any]]

ESTIMATION = ("estimation", "neighbour search")
"""Stages of the method itself."""


def results(found: Found, size: str, arm: str, members: int = 1) -> list[dict[str, Any]]:
    """Results of all repeats, none where nothing was measured."""
    return [
        result
        for cell, result in found.items()
        if (cell.size, cell.arm, cell.members) == (size, arm, members)
    ]


def middle(found: Found, size: str, arm: str, measure: str, members: int = 1) -> float | None:
    """Median over repeats of the whole of a process; None where nothing was measured."""
    values = [whole(result["stages"])[measure] for result in results(found, size, arm, members)]
    return median(values) if values else None


def estimation(found: Found, size: str, arm: str, measure: str, members: int = 1) -> float | None:
    """Median over repeats of the estimation with its neighbour search; None where nothing was measured."""
    values = [
        sum(result["stages"].get(name, {measure: 0.0})[measure] for name in ESTIMATION)
        for result in results(found, size, arm, members)
    ]
    return median(values) if values else None


def per_voxel(found: Found, size: str, peer: str) -> float | None:
    """Processor seconds per voxel of a published fit."""
    every = results(found, size, peer)
    return every[0]["cpu"] / every[0]["voxels"] if every else None


@dataclass(frozen=True)
class Target:
    """What is wanted of one kind of device.

    Attributes
    ----------
    text : str
    kind : str
        ``cpu`` or ``cuda``.
    value : callable
        From the results to a number; None where one of them is missing.
    limit : float
    least : bool
        Whether the number must reach the limit instead of staying below it.
    """

    text: str
    kind: str
    value: Callable[[Found], float | None]
    limit: float = 1.0
    least: bool = False


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def _to_peer(measure: str) -> Callable[[Found], float | None]:
    def value(found: Found) -> float | None:
        each, fits = per_voxel(found, "medium", "dipy-trr"), results(found, "medium", "dipy-trr")
        return _ratio(middle(found, "medium", "app", measure), each and each * fits[0]["mask"])

    return value


def _least_squares_rate(found: Found) -> float | None:
    runs = results(found, "medium", "lsq")
    ours = _ratio(estimation(found, "medium", "lsq", "wall"), runs[0]["voxels"] if runs else None)
    return _ratio(per_voxel(found, "medium", "dipy-trr"), ours)


def _residuals(found: Found) -> float | None:
    fits = results(found, "medium", "dipy-trr")
    return fits[0]["residuals"]["as_good"] if fits else None


def _worst_error(found: Found) -> float | None:
    ours = results(found, "medium", "app")
    others = [fit for arm in ("lsq", *COMPETITORS) for fit in results(found, "medium", arm)]
    if not ours or not others:
        return None
    names = [f"rmse_{label}" for label in LABELS]
    return max(ours[0]["errors"][name] / min(fit["errors"][name] for fit in others) for name in names)


def _ensemble(found: Found) -> float | None:
    ten, one = (estimation(found, "medium", "ensemble", "wall", members) for members in (10, 1))
    return _ratio(ten, one)


def _warm_training(found: Found) -> float | None:
    return estimation(found, "medium", "ensemble", "wall")


def _share(seconds: float, taken: Callable[[Found], float | None]) -> Callable[[Found], float | None]:
    return lambda found: _ratio(taken(found), seconds)


def _app_wall(found: Found) -> float | None:
    return middle(found, "medium", "app", "wall")


TARGETS = (
    Target("whole app, medium: share of 5 minutes", "cpu", _share(300.0, _app_wall)),
    Target("whole app, medium: wall-clock time to dipy-trr's (extrapolated)", "cpu", _to_peer("wall")),
    Target("whole app, medium: processor time to dipy-trr's (extrapolated)", "cpu", _to_peer("cpu")),
    Target("errors of F, D, D*, medium: the worst ratio to the best other method's", "cpu", _worst_error),
    Target("lsq, medium: voxels per second to dipy-trr's", "cpu", _least_squares_rate, 100.0, least=True),
    Target("lsq, medium: voxels with dipy-trr's residual or less, to 0.1 %", "cpu", _residuals, 0.99, True),
    Target("--help: share of 1 s", "cpu", _share(1.0, lambda found: middle(found, "", "help", "wall"))),
    Target("whole app, medium: share of 20 s", "cuda", _share(20.0, _app_wall)),
    Target("training and neighbour search, medium, warm: share of 5 s", "cuda", _share(5.0, _warm_training)),
    Target("ensemble of 10, medium, warm: time to that of one", "cuda", _ensemble, 4.0),
)


def verdicts(found: Found, device: str) -> Iterator[tuple[str, str, str, str]]:
    """Text, number, limit and verdict of every target; ``missing`` where it was not measured."""
    kind = device.partition(":")[0]
    for target in TARGETS:
        number = target.value(found) if target.kind == kind else None
        limit = f"{'at least' if target.least else 'below'} {target.limit:g}"
        if number is None:
            why = "missing" if target.kind == kind else f"missing: needs --device {target.kind}"
            yield target.text, "", limit, why
            continue
        met = number >= target.limit if target.least else number < target.limit
        yield target.text, f"{number:.3g}", limit, "met" if met else "MISSED"

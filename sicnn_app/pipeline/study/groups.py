"""Which runs of a dataset share a network, and how that enters their fingerprints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sicnn_app.bids.discover import Discovery, discover
from sicnn_app.bids.gradients import part_bvals
from sicnn_app.bids.images import open_image, volume_count
from sicnn_app.errors import SicnnAppError
from sicnn_app.ivim.bvalues import group_bvalues, same_bvalues, wanted_bvalues
from sicnn_app.ivim.run import DwiRun
from sicnn_app.pipeline.planned import digest, fingerprint_all
from sicnn_app.settings import Settings
from sicnn_app.system.console import Console


@dataclass(frozen=True)
class StudyGroup:
    """Two runs or more that share a network because they have the same b-values.

    ``bvals`` are the nominal b-values of the first run, s/mm^2, ascending, those that are left out aside.
    """

    bvals: tuple[float, ...]
    runs: tuple[DwiRun, ...]
    settings: Settings

    @cached_property
    def own(self) -> dict[str, str]:
        """Fingerprint of each run if it did not depend on the others, by its name."""
        return fingerprint_all(self.settings, self.runs)

    @cached_property
    def _of_all(self) -> str:
        return digest(sorted(self.own.items()))

    def fingerprint(self, name: str) -> str:
        """Fingerprint of one of the runs: its maps depend on the files of all."""
        return digest([self.own[name], self._of_all])


@dataclass(frozen=True)
class Study:
    """The groups of a dataset.

    Runs ``alone`` have b-values that no other run has; those ``left_out`` cannot be part of a group.
    """

    groups: tuple[StudyGroup, ...] = ()
    alone: tuple[str, ...] = ()
    left_out: tuple[tuple[str, SicnnAppError], ...] = ()

    def group_of(self, name: str) -> StudyGroup | None:
        """The group of a run; None for one without others."""
        return self._groups_by_run.get(name)

    @cached_property
    def _groups_by_run(self) -> dict[str, StudyGroup]:
        return {item.name: group for group in self.groups for item in group.runs}

    def tell(self, console: Console) -> None:
        """A line per run that cannot be part of a group, per group, and for the runs without."""
        for name, error in self.left_out:
            console.warning(f"study network: trained without {name}: {error}")
        for group in self.groups:
            bvals = ", ".join(f"{b:g}" for b in group.bvals)
            console.line(
                f"training scope study: one network for {len(group.runs)} runs with b = {bvals} s/mm^2"
            )
        if self.alone:
            console.line(
                f"training scope study: no other run has the b-values of {', '.join(self.alone)}: trained "
                "as with --training-scope subject"
            )

    def own_fingerprint(self, name: str, fingerprint: str) -> str:
        """The ``fingerprint`` of a run if it did not depend on the other runs."""
        group = self.group_of(name)
        return fingerprint if group is None else group.own[name]

    def fingerprints(self, settings: Settings, runs: Sequence[DwiRun]) -> dict[str, str]:
        """Fingerprints of runs, by their name."""
        groups = {item.name: group for item in runs if (group := self.group_of(item.name)) is not None}
        alone = [item for item in runs if item.name not in groups]
        return fingerprint_all(settings, alone) | {
            name: group.fingerprint(name) for name, group in groups.items()
        }


def find_study(settings: Settings, discovery: Discovery) -> Study:
    """The groups of all runs that the settings select when no label narrows participants or sessions.

    There are none unless the training scope is the study. ``discovery`` is what the settings select with the
    labels. Raises as :func:`sicnn_app.bids.discover.discover`.
    """
    if settings.estimation.training_scope != "study":
        return Study()
    selection = settings.selection
    if selection.participant_label or selection.session_id:
        selection = replace(selection, participant_label=(), session_id=())
        discovery = discover(settings.bids_dir, selection, settings.inputs, settings.preprocessing)
    sets: list[tuple[np.ndarray, list[DwiRun]]] = []
    left_out = []
    for item in discovery.runs:
        try:
            bvals = _used_bvalues(item, settings)
        except SicnnAppError as error:
            left_out.append((item.name, error))
            continue
        known = next((members for others, members in sets if same_bvalues(others, bvals)), None)
        if known is None:
            sets.append((bvals, [item]))
        else:
            known.append(item)
    left_out += [(item.name, error) for item, error in discovery.problems]
    return Study(
        tuple(
            StudyGroup(tuple(bvals.tolist()), tuple(runs), settings) for bvals, runs in sets if len(runs) > 1
        ),
        tuple(runs[0].name for _, runs in sets if len(runs) == 1),
        tuple(left_out),
    )


def _used_bvalues(item: DwiRun, settings: Settings) -> np.ndarray:
    """Nominal b-values of a run that reach the estimation as long as no volume is without data."""
    volumes = [volume_count(open_image(source.image)) for source in item.parts]
    tables, _ = part_bvals(item.parts, volumes, settings.inputs.bvals)
    nominal, _ = group_bvalues(np.concatenate(tables))
    steps = settings.preprocessing
    return nominal[wanted_bvalues(nominal, max_bval=steps.max_bval, ignore_bvals=steps.ignore_bvals)]

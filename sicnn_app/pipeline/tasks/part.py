"""Input and outcome of a task: values that can be pickled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sicnn_app.errors import SicnnAppError
from sicnn_app.ivim.run import DwiRun
from sicnn_app.pipeline.planned import grouped
from sicnn_app.pipeline.study.groups import Study
from sicnn_app.settings import Settings


@dataclass(frozen=True)
class Outcome:
    """Outcome of one run: ``done``, ``skipped`` or ``failed``, with the error of a failed one."""

    run: DwiRun
    status: str
    error: SicnnAppError | None = None


def counted(outcomes: Sequence[Outcome]) -> str:
    """How many runs were written, skipped and failed, in words."""
    count = Counter(outcome.status for outcome in outcomes)
    return f"{count['done']} written, {count['skipped']} skipped, {count['failed']} failed"


@dataclass(frozen=True)
class Part:
    """Runs to be processed by one process.

    Everything was found and checked before, for all participants together: what becomes of a run does not
    depend on how the work is divided.

    Attributes
    ----------
    settings : Settings
        Paths are absolute.
    runs : tuple of DwiRun
        Of whole sessions, those of ``problems`` too.
    fingerprints : dict of str to str
        Of every run that can be loaded, by its name.
    finished : frozenset of str
        Names of runs whose outputs are there already.
    problems : dict of str to SicnnAppError
        What keeps a run from being loaded, by its name.
    lock_wait : float
        Seconds to wait for another process that has a run.
    networks_only : bool
        Train the networks that the runs start from, and process none.
    """

    settings: Settings
    study: Study
    runs: tuple[DwiRun, ...]
    fingerprints: Mapping[str, str]
    finished: frozenset[str]
    problems: Mapping[str, SicnnAppError]
    lock_wait: float = 0.0
    networks_only: bool = False

    def outcomes(self, result: PartResult) -> Sequence[Outcome]:
        """Outcomes of the runs, also when the process as a whole ended with an error."""
        if result.error is None:
            return result.outcomes
        return [
            Outcome(item, "skipped") if item.name in self.finished else Outcome(item, "failed", result.error)
            for item in self.runs
        ]

    def of(self, runs: Sequence[DwiRun], **changes: Any) -> Part:
        """The part with these of its runs."""
        names = {item.name for item in runs}
        return replace(
            self,
            runs=tuple(runs),
            fingerprints={name: self.fingerprints[name] for name in names & self.fingerprints.keys()},
            finished=self.finished & names,
            problems={name: self.problems[name] for name in names & self.problems.keys()},
            **changes,
        )

    def by_participant(self) -> list[Part]:
        """One part per participant, in the order of the runs."""
        return [self.of(runs) for runs in grouped(self.runs, "subject").values()]


@dataclass(frozen=True)
class PartResult:
    """Outcomes of a part.

    With ``networks_only`` the outcomes are those of runs whose network cannot be trained. The error is what
    ended the process before it had dealt with its runs; ``stopped`` when that was a signal, after which the
    checkpoint was written.
    """

    outcomes: tuple[Outcome, ...] = ()
    log: Path | None = None
    error: SicnnAppError | None = None
    stopped: bool = False

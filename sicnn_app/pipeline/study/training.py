"""The networks of a study: read where another job trained them, trained where none did."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sicnn_app.derivatives.marker import recorded_fingerprint
from sicnn_app.errors import DataError, MissingInputError, SicnnAppError, TryAgainError
from sicnn_app.ivim.bvalues import same_bvalues
from sicnn_app.ivim.run import DwiRun
from sicnn_app.pipeline.one_run import CHECKPOINT, prepare_run
from sicnn_app.pipeline.planned import training_key
from sicnn_app.pipeline.study.groups import Study, StudyGroup
from sicnn_app.pipeline.tasks.part import Outcome
from sicnn_app.settings import Settings
from sicnn_app.system.checkpoints import TrainingCheckpoint, Untrusted, is_state, read_state, write_state
from sicnn_app.system.console import Console
from sicnn_app.system.locks.shared import FolderLock, HeldElsewhere, locked_folder
from sicnn_app.system.memory import remaining_memory

if TYPE_CHECKING:
    from sicnn_app.sicnn.study_network import StudyNetwork
    from sicnn_app.sicnn.train import TrainingData

POLL = 2.0
"""Seconds between two looks for a network that another process trains."""

WAIT = 24 * 3600.0
"""Seconds after which such a wait ends; a process that died is noticed long before."""

_NAME = re.compile(r"study-[0-9a-f]{8}-[0-9a-f]{8}\.pt")


class StudyNetworks:
    """The networks of one call, each read or trained when the first run needs it.

    They lie in the work directory, where all jobs find them.
    """

    def __init__(self, study: Study, settings: Settings, console: Console, device: str) -> None:
        self._study, self._settings, self._console, self._device = study, settings, console, device
        self._found: dict[str, StudyNetwork | SicnnAppError | None] = {}
        self._untrusted: set[Path] = set()

    def start_of(self, item: DwiRun) -> StudyNetwork | None:
        """The network that the training of a run starts from; None: random weights.

        Raises what keeps the network from being trained, again for every run of its group.
        """
        group = self._study.group_of(item.name)
        if group is None:
            return None
        key = self._key(group)
        if key not in self._found:
            try:
                self._found[key] = self._network(group, key)
            except SicnnAppError as error:
                # Without the traceback, whose frames hold the signals of all runs.
                self._found[key] = type(error)(str(error))
                raise
        found = self._found[key]
        if isinstance(found, SicnnAppError):
            raise found
        return found

    def forget_finished(self, outcomes: Sequence[Outcome]) -> None:
        """Remove the networks of which every run is finished in this output.

        With ``--overwrite`` only what this call has done counts as finished: other jobs may still make the
        rest again.
        """
        done = {outcome.run.name for outcome in outcomes if outcome.status == "done"}
        for group in self._study.groups:
            key = self._key(group)
            path = network_path(self._settings.work_dir, key)
            if not path.exists():
                continue
            try:
                network = read_network(path, key)
            except Untrusted:
                continue
            # A run that could not be loaded for the network will not be finished either.
            needed = {item.name: item for item in group.runs if network is None or item.name in network.runs}
            if self._settings.overwrite and not needed.keys() <= done:
                continue
            if all(
                recorded_fingerprint(self._settings.output_dir, item) == (group.fingerprint(name), True)
                for name, item in needed.items()
            ):
                remove_network(path)

    def _key(self, group: StudyGroup) -> str:
        return training_key(self._settings, self._device, runs=sorted(group.own.items()))

    def _network(self, group: StudyGroup, key: str) -> StudyNetwork | None:
        path, console = network_path(self._settings.work_dir, key), self._console
        started, told = time.monotonic(), False
        while True:
            network = self._read(path, key)
            if network is not None:
                console.line(f"study network: taken from {path}")
                return network
            try:
                with locked_folder(path.with_suffix(""), keep=(CHECKPOINT,)) as lock:
                    if lock.recovered:
                        console.warning(f"study network: {lock.recovered}")
                    # Another process may have finished it between the two looks.
                    return self._read(path, key) or self._train(group, key, lock)
            except HeldElsewhere as error:
                if time.monotonic() - started > WAIT:
                    # The run itself is not held elsewhere.
                    raise TryAgainError(str(error)) from error
                if not told:
                    console.line("study network: waiting until another process has trained it")
                    told = True
            time.sleep(POLL)

    def _read(self, path: Path, key: str) -> StudyNetwork | None:
        try:
            return read_network(path, key)
        except Untrusted as reason:
            if path not in self._untrusted:
                self._untrusted.add(path)
                self._console.warning(
                    f"{path}: not used ({reason}): the study network is trained for this call alone; jobs of "
                    "several users need work directories of their own (--work-dir)"
                )
            return None

    def _train(self, group: StudyGroup, key: str, lock: FolderLock) -> StudyNetwork | None:
        from sicnn_app.sicnn.study import train_study

        settings, console = self._settings, self._console
        cases = self._cases(group, lock.folder)
        if len(cases) < 2:
            console.warning("study network: not trained, because fewer than two runs could be loaded")
            return None
        console.line(f"study network: training on {len(cases)} runs")
        checkpoint = TrainingCheckpoint(lock.folder / CHECKPOINT, key)
        with console.progress("study network") as progress:
            network = train_study(
                cases,
                group.bvals,
                settings=settings.estimation,
                device=self._device,
                progress=progress,
                checkpoint=checkpoint,
                fall_back=settings.resources.device == "auto",
                memory_limit=remaining_memory(settings.resources.mem),
            )
        for text in (*network.out_of_memory, *checkpoint.warnings):
            console.warning(f"study network: {text}")
        console.line(f"study network: trained in {len(network.losses)} epochs, loss {network.loss:.3g}")
        lock.check()
        path = network_path(settings.work_dir, key)
        if path in self._untrusted:
            # What lies there is somebody else's.
            return network
        try:
            write_network(path, key, network, scratch=lock.folder)
        except OSError as error:
            console.warning(
                f"{path}: the study network cannot be saved ({error.strerror}): other jobs train it anew"
            )
        return network

    def _cases(self, group: StudyGroup, scratch: Path) -> dict[str, TrainingData]:
        """Data that the network is trained on; one run at a time is in memory as a whole."""
        from sicnn_app.sicnn.study import study_case

        cases = {}
        for number, item in enumerate(group.runs, start=1):
            title = f"study network: run {number} of {len(group.runs)}, {item.name}"
            try:
                with self._console.progress(title) as progress:
                    own = group.own[item.name]
                    ready = prepare_run(
                        item, self._settings, fingerprint=own, scratch=scratch, progress=progress
                    )
            except (DataError, MissingInputError) as error:
                self._console.warning(f"study network: trained without {item.name}: {error}")
                continue
            averaged = ready.prepared.averaged
            if not same_bvalues(group.bvals, averaged.bvals):
                self._console.warning(
                    f"study network: trained without {item.name}: volumes are left out and with them b-values"
                )
                continue
            cases[item.name] = study_case(averaged.signals, averaged.mask, averaged.sigma)
            self._console.detail(f"{title}: {int(averaged.mask.sum())} voxels")
        return cases


def network_path(work_dir: Path, key: str) -> Path:
    """File of the network with this key; whoever trains it locks the folder of that name without ``.pt``."""
    return work_dir / f"study-{key[:8]}-{key[8:16]}.pt"


def read_network(path: Path, key: str) -> StudyNetwork | None:
    """The network in a file, None for one that is absent, damaged or of another key; raises Untrusted."""
    from sicnn_app.sicnn.study_network import StudyNetwork

    state = read_state(path, key)
    try:
        return None if state is None else StudyNetwork.from_state(state)
    except (KeyError, TypeError):
        return None


def write_network(path: Path, key: str, network: StudyNetwork, *, scratch: Path) -> None:
    """Write the file so that it is complete or not there; raises OSError.

    A kill leaves what is unfinished in ``scratch``, a folder of this process on the same file system.
    """
    unfinished = scratch / path.name
    write_state(unfinished, key, network.state())
    unfinished.replace(path)


def remove_network(path: Path) -> None:
    """Remove the file when it is one of this app and user; anything else under its name stays."""
    if is_state(path):
        with suppress(OSError):
            path.unlink()


def remove_networks(work_dir: Path) -> None:
    """Remove all networks of this user from a work directory, which may be absent."""
    with suppress(OSError):
        for path in work_dir.iterdir():
            if _NAME.fullmatch(path.name):
                remove_network(path)

"""A network trained on the runs of a whole study: what a run's own training can start from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from sicnn_app.ivim.bvalues import same_bvalues
from sicnn_app.sicnn.whitening import Whitening


@dataclass(frozen=True, eq=False)
class StudyNetwork:
    """Weights and whitening after the training on all runs, and how it went; tensors lie on the CPU.

    Attributes
    ----------
    runs : tuple of str
        Names of the runs it was trained on, in order.
    bvals : tuple of float, s/mm^2
    weights : dict of str to Tensor, averaged
    whitening : Whitening, of all runs together
    losses : tuple of float
        Mean loss of every epoch; an epoch visits every slice of every run once.
    loss : float
        That of the half-period with the lowest one, whose weights these are.
    batch_size, tile_size : int
        As used.
    out_of_memory : tuple of str
        What was given up for want of memory, one line each.
    """

    runs: tuple[str, ...]
    bvals: tuple[float, ...]
    weights: dict[str, Tensor]
    whitening: Whitening
    losses: tuple[float, ...]
    loss: float
    batch_size: int
    tile_size: int
    out_of_memory: tuple[str, ...] = ()

    def fits(self, bvals: Sequence[float]) -> bool:
        """True when signals at ``bvals``, s/mm^2 ascending, are those it was trained on, jitter aside."""
        return same_bvalues(self.bvals, bvals)

    def digest(self) -> bytes:
        """Hash of all that decides what a training from here ends with."""
        found = hashlib.sha256()
        for name, values in sorted(self.weights.items()):
            found.update(name.encode())
            found.update(values.contiguous().numpy())
        for values in (self.whitening.mean, self.whitening.matrix):
            found.update(values.contiguous().numpy())
        return found.digest()

    def state(self) -> dict[str, Any]:
        """Tensors and plain values, for :meth:`from_state`."""
        plain = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "whitening"}
        return {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()},
            "mean": self.whitening.mean,
            "matrix": self.whitening.matrix,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> StudyNetwork:
        """The network whose :meth:`state` it is."""
        plain = {name: tuple(value) if isinstance(value, list) else value for name, value in state.items()}
        return cls(whitening=Whitening(plain.pop("mean"), plain.pop("matrix")), **plain)


def scope_parameters(start: StudyNetwork | None) -> dict[str, Any]:
    """Entries of a sidecar about where the training started."""
    if start is None:
        return {"training_scope": "subject"}
    return {
        "training_scope": "study",
        "study_runs": len(start.runs),
        "study_run_names": list(start.runs),
        "study_epochs": len(start.losses),
        "study_loss": start.loss,
        "study_batch_size": start.batch_size,
        "study_tile_size": start.tile_size,
        "study_out_of_memory": list(start.out_of_memory),
    }

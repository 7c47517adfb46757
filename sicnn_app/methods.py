"""The methods of estimation: a row each, from which everything else that knows a method takes it.

May import ``ivim`` and, for types alone, ``sicnn``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from sicnn_app.ivim.map_spec import MapSpec

if TYPE_CHECKING:
    import numpy as np

    from sicnn_app.ivim.maps import Estimate
    from sicnn_app.ivim.resampling import Resample
    from sicnn_app.ivim.series import Evidence
    from sicnn_app.settings import EstimationSettings
    from sicnn_app.sicnn.study_network import StudyNetwork
    from sicnn_app.system.checkpoints import TrainingCheckpoint

SUPPLEMENT = (
    "Supplementary materials of SI-CNN: Proof process of Differences in Signal Quality, convergence, "
    "ablation study and related experimental logs."
)
HUANG = (
    "Huang HM. An unsupervised convolutional neural network method for estimation of intravoxel "
    "incoherent motion parameters. Physics in Medicine & Biology 2022;67(21):215018."
)


class Estimator(Protocol):
    """Module of a method: what the pipeline, the simulation and the Python API call."""

    def estimate(
        self,
        signals: np.ndarray,
        mask: np.ndarray,
        bvals: np.ndarray,
        *,
        noise: np.ndarray,
        volumes: np.ndarray | None = None,
        sigma: float | None = None,
        settings: EstimationSettings,
        device: str = "cpu",
        progress: Callable[[str, int, int], None] | None = None,
        checkpoint: TrainingCheckpoint | None = None,
        fall_back: bool = False,
        memory_limit: int | None = None,
        start: StudyNetwork | None = None,
        resample: Resample | None = None,
        evidence: Evidence | None = None,
    ) -> Estimate:
        """Maps of one run.

        Parameters
        ----------
        signals : ndarray, shape (X, Y, Z, B), float32, units of the source image
            Averaged per b-value; finite inside the mask, and above 0 there at the lowest b-value.
        mask : ndarray, shape (X, Y, Z), bool
        bvals : ndarray, shape (B,), s/mm^2
            Ascending, distinct.
        noise : ndarray, shape (X, Y, Z, B) or (B,)
            Standard deviation of the averaged signals from the truth, of every voxel or of all; 0 where it is
            not known.
        volumes : ndarray, shape (B,), optional
            Volumes that were averaged per b-value. Signals then weigh in proportion to them, by the noise of
            all b-values together; by default by that of each b-value.
        sigma : float, optional
            Noise standard deviation of a single volume.
        device : str
            ``cpu`` or ``cuda:N``.
        progress : callable (text, done, total), optional
        checkpoint : TrainingCheckpoint, optional
            Where a training may leave its state, and finds it again.
        fall_back : bool
            Go on with the CPU when the memory of the device does not suffice.
        memory_limit : int, optional
            Bytes of host memory that may be taken besides what the process holds.
        start : StudyNetwork, optional
            What a training starts from instead of random weights.
        resample : Resample, optional
            Draws what else might have been measured, for an ensemble.
        evidence : Evidence, optional
            What the maps are refined with; by default the signals as given.

        Raises
        ------
        TryAgainError
            When the memory does not suffice.
        """

    def needed_bytes(self, shape: tuple[int, int, int], n_bvals: int, settings: EstimationSettings) -> int:
        """Host memory, bytes, that ``estimate`` takes besides its arguments for a volume of this shape."""


@dataclass(frozen=True)
class Method:
    """One method, and what the rest of the app says of it.

    Attributes
    ----------
    title : str
        How texts, tables and charts name it.
    module : str
        An :class:`Estimator`, imported on use.
    sentence : str
        Of the methods text. ``{network}`` and ``{rewriting}`` stand for what the settings say of the network
        and of the training signals.
    references : tuple of str
        What the methods text cites for it.
    cited_as : tuple of str
        The same as sidecars write it.
    trains : bool
        A network is trained: its training can go on from a checkpoint, start from the network of a study and
        be repeated for an ensemble, and its maps are compared with those of least squares.
    update_rules : tuple of str
        Ways of rewriting training signals that it knows, its own first.
    searches_neighbours : bool
        Similar neighbours are looked for, and voxels without one flagged.
    takes_epochs : bool
        The number of epochs is a setting, since nothing else ends the training.
    maps : tuple of MapSpec
        Further maps that it returns, besides those of every method.
    model : str
        Name and equation of its model, as "tri-exponential: S(b) = ...", for sidecars and the methods text;
        empty for the bi-exponential.
    """

    title: str
    module: str
    sentence: str
    references: tuple[str, ...] = ()
    cited_as: tuple[str, ...] = ()
    trains: bool = False
    update_rules: tuple[str, ...] = ()
    searches_neighbours: bool = False
    takes_epochs: bool = False
    maps: tuple[MapSpec, ...] = ()
    model: str = ""


_REWRITING_NETWORK = (
    "F, D and D* were estimated with {title}, reconstructed from the supplement of the method's authors "
    "(Supplementary materials of SI-CNN): {{network}}. {{rewriting}} As the network and further details are "
    "not published in the supplement, this is a reconstruction, not the authors' own implementation."
)
_SI_CNN = "Supplementary materials of SI-CNN, from which the method was reconstructed; see CITATION.md"

LEAST_SQUARES = "lsq"
"""The method that the maps of every network are compared with."""

METHODS: dict[str, Method] = {
    "si-cnn": Method(
        title="SI-CNN",
        module="sicnn_app.sicnn.estimate",
        sentence=_REWRITING_NETWORK.format(title="SI-CNN"),
        references=(SUPPLEMENT, HUANG),
        cited_as=(_SI_CNN,),
        trains=True,
        update_rules=("observed-neighbours", "predicted-neighbours"),
        searches_neighbours=True,
    ),
    "di-cnn": Method(
        title="DI-CNN",
        module="sicnn_app.sicnn.estimate",
        sentence=_REWRITING_NETWORK.format(title="DI-CNN"),
        references=(SUPPLEMENT, HUANG),
        cited_as=(_SI_CNN,),
        trains=True,
        update_rules=("own-prediction",),
    ),
    "cnn": Method(
        title="CNN",
        module="sicnn_app.sicnn.estimate",
        sentence="F, D and D* were estimated with a plain network: {network}. Training signals were not "
        "rewritten.",
        references=(HUANG,),
        cited_as=(_SI_CNN,),
        trains=True,
        takes_epochs=True,
    ),
    LEAST_SQUARES: Method(
        title="Least squares",
        module="sicnn_app.lsq.estimate",
        sentence="F, D, D* and S0 were estimated voxel by voxel by least squares, without any neural "
        "network.",
    ),
}
"""Every method by the name that ``--method`` takes; the default comes first."""


def estimator(method: str) -> Estimator:
    """The module of a method, imported; raises KeyError for a method that no row names."""
    return cast(Estimator, importlib.import_module(METHODS[method].module))

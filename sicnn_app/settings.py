"""Settings of a run: frozen, validated dataclasses without defaults hidden elsewhere.

A field with a flag or a limit holds an :class:`sicnn_app.options.Option`, from which command line, checks and
texts are made. May import ``ivim``.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from sicnn_app.errors import UsageError
from sicnn_app.files import from_here
from sicnn_app.ivim.parameters import BOUNDS
from sicnn_app.methods import METHODS, Method
from sicnn_app.options import (
    AT_LEAST_0,
    AT_LEAST_1,
    POSITIVE,
    SHARE,
    Limit,
    Option,
    given_path,
    label_of,
    row,
)
from sicnn_app.steps import STEPS, step_options

NORMALISATIONS = ("channels", "none", "batch", "group")
UPDATE_RULES = tuple(dict.fromkeys(rule for method in METHODS.values() for rule in method.update_rules))

MAX_SEED = 2**32 - 1
"""Every random generator in use takes a seed of 32 bits."""


def options_of(kind: type) -> dict[str, Option]:
    """The rows of a class of settings by the names of its fields, in the order of the help.

    Where a class has the field ``added``, the options of all steps come in its place.
    """
    found: dict[str, Option] = {}
    for item in fields(kind):
        if item.name == "added":
            found |= step_options()
        elif option := item.metadata.get("option"):
            found[item.name] = replace(option, default=None if item.default is MISSING else item.default)
    return found


def _check(settings: Any) -> None:
    values = vars(settings) | getattr(settings, "added", {})
    for name, option in options_of(type(settings)).items():
        option.check(name, values.get(name, option.default))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def _expect(condition: bool, message: str) -> None:
    """The same for settings that no flag reaches: a wrong one is a mistake in code."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Threshold:
    """A threshold on normalised signals, or on their change: absolute, or a multiple of the noise.

    Examples
    --------
    >>> Threshold.parse("0.03")
    Threshold(value=0.03, unit='absolute')
    >>> str(Threshold.parse("2.5sigma"))
    '2.5sigma'
    """

    value: float
    unit: str

    def __post_init__(self) -> None:
        _require(self.unit in ("absolute", "sigma"), f"unknown threshold unit {self.unit!r}")
        _require(
            math.isfinite(self.value) and self.value >= 0,
            f"a threshold must be a number >= 0, not {self.value!r}",
        )

    @classmethod
    def parse(cls, text: str) -> Threshold:
        """Read ``0.03`` or ``2.5sigma``; raises UsageError for anything else."""
        match = re.fullmatch(r"\s*([0-9.eE+-]+)\s*(sigma)?\s*", text)
        number, unit = match.groups() if match else ("", None)
        try:
            value = float(number)
        except ValueError:
            raise UsageError(
                f"a threshold is a number (0.03), a multiple of the noise (2.5sigma) or auto, not {text!r}"
            ) from None
        return cls(value, "sigma" if unit else "absolute")

    def __str__(self) -> str:
        return f"{self.value:g}sigma" if self.unit == "sigma" else f"{self.value:g}"


def _threshold_or_auto(text: str) -> Threshold | None:
    try:
        return None if text == "auto" else Threshold.parse(text)
    except UsageError as error:
        # argparse names the flag.
        raise argparse.ArgumentTypeError(str(error)) from None


@dataclass(frozen=True)
class Bounds:
    """Closed intervals of the parameters (F fraction; D, D* mm^2/s; S0 relative to the normaliser)."""

    f: tuple[float, float] = BOUNDS["f"]
    d: tuple[float, float] = BOUNDS["d"]
    dstar: tuple[float, float] = BOUNDS["dstar"]
    s0: tuple[float, float] = BOUNDS["s0"]


@dataclass(frozen=True)
class SimilaritySettings:
    """When two voxels count as similar, beside the threshold on the distance of their predicted curves.

    Attributes
    ----------
    distance : {'maximum', 'root-mean-square'}
        Over the b-values. Tissues that differ at high b-values only stay apart by the largest difference.
    weighting : {'gaussian', 'equal'}
        Weight of a neighbour, by its distance in thresholds.
    s0_ratio : float or None
        Largest ratio of the brightnesses S0 of similar voxels; None: any.
    """

    distance: str = field(default="maximum", metadata=row(allowed=("maximum", "root-mean-square")))
    weighting: str = field(default="gaussian", metadata=row(allowed=("gaussian", "equal")))
    s0_ratio: float | None = field(
        default=1.35,
        metadata=row(allowed=Limit("above 1", lambda ratio: ratio is None or ratio > 1), words="ratio of S0"),
    )

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class NetworkSettings:
    """Shape of the network.

    Attributes
    ----------
    width : int
        Channels of every hidden layer.
    depth : int
        Hidden layers; the receptive field is 2 * depth + 1 voxels for 3 x 3 kernels.
    kernel_size : int
        Odd; 1 makes a voxelwise network.
    normalisation : {'channels', 'none', 'batch', 'group'}
        Of the hidden layers after the first: every voxel over its channels, none, batch or group
        normalisation.
    """

    width: int = 32
    depth: int = 3
    kernel_size: int = field(default=3, metadata=row(allowed=Limit("odd", lambda size: size % 2 == 1)))
    normalisation: str = field(default="none", metadata=row(allowed=NORMALISATIONS))

    def __post_init__(self) -> None:
        _expect(min(self.width, self.depth) >= 1, "the network needs at least one channel and one layer")
        _check(self)


def _labels(what: str, prefix: str, *flags: str) -> dict[str, Option]:
    text = f"{what} to process (default: all)"
    return row(text, flags=flags, reads=label_of(prefix), several=True, metavar="LABEL")


@dataclass(frozen=True)
class SelectionSettings:
    """Which runs of the dataset to process; labels without ``sub-``/``ses-`` prefixes."""

    participant_label: tuple[str, ...] = field(
        default=(), metadata=_labels("participants", "sub-", "--participant-label")
    )
    session_id: tuple[str, ...] = field(
        default=(), metadata=_labels("sessions", "ses-", "--session-id", "--session-label")
    )
    acquisition_label: tuple[str, ...] = field(
        default=(), metadata=_labels("acquisitions (acq-)", "acq-", "--acquisition-label")
    )
    run_label: tuple[str, ...] = field(default=(), metadata=_labels("runs (run-)", "run-", "--run-label"))
    bids_filters: dict[str, Any] = field(
        default_factory=dict,
        metadata=row(
            'entities of the runs to process, as {{"dwi": {{"acquisition": "ivim"}}}}; unknown keys '
            "are ignored",
            flags=("--bids-filter-file",),
            reads=given_path,
            metavar="JSON",
        ),
    )
    skip_bids_validation: bool = field(
        default=False, metadata=row("a missing dataset_description.json is a warning")
    )
    bids_database_dir: Path | None = field(
        default=None,
        metadata=row("keep the pybids index there (default: in memory)", reads=given_path, metavar="DIR"),
    )
    combine: str = field(
        default="none",
        metadata=row(
            "merge runs that differ in this entity only", ("none", "acquisition", "run", "direction")
        ),
    )

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class InputSettings:
    """Data besides the BIDS dataset: derivative datasets by name, b-values for trace images, ratings."""

    derivatives: dict[str, Path] = field(
        default_factory=dict,
        metadata=row(
            "derivative datasets whose masks, preprocessed images and segmentations are used, also folders "
            "of TotalSegmentator, FreeSurfer, FastSurfer and SynthSeg; at the level group the "
            "segmentations alone (default: none)",
            flags=("-d", "--derivatives"),
            several=True,
            metavar="[NAME=]PATH",
        ),
    )
    mask_desc: str | None = field(
        default=None,
        metadata=row(
            "desc- of the mask to take when several match; none: take none of -d, one is made "
            "(desc-none is the label none)",
            metavar="LABEL",
        ),
    )
    bvals: Path | None = field(
        default=None, metadata=row("b-values for images without a .bval", reads=given_path, metavar="FILE")
    )
    ratings: Path | None = field(
        default=None,
        metadata=row(
            "folder of the ratings that reviewers saved in the reports, for the level group; runs rated "
            "unusable are left out of what is said of all runs together (default: none)",
            reads=given_path,
            metavar="DIR",
        ),
    )


@dataclass(frozen=True)
class PreprocessingSettings:
    """Treatment of the series before the estimation.

    ``max_bval`` and ``ignore_bvals`` in s/mm^2; ``added``: options of :data:`sicnn_app.steps.STEPS` that are
    no field of their own.
    """

    anatomy: str = field(
        default="auto",
        metadata=row("which mask to make; auto reads BodyPart of the sidecar", ("auto", "brain", "body")),
    )
    denoise: str = STEPS["denoising"].options["denoise"].default
    unring: bool = False
    motion_correction: str = STEPS["motioncorrection"].options["motion_correction"].default
    per_slice: bool = False
    added: dict[str, Any] = field(default_factory=dict)
    average: str = field(
        default="auto",
        metadata=row(
            "how the volumes of a b-value are averaged; robust weighs down what lost signal to motion; auto: "
            "geometric over the directions of brains and other anisotropic tissue, else robust",
            ("auto", "arithmetic", "geometric", "robust"),
        ),
    )
    ignore_bvals: tuple[float, ...] = field(
        default=(),
        metadata=row("b-values to leave out, s/mm^2 (default: none)", reads=float, several=True, metavar="B"),
    )
    ignore_volumes: tuple[str, ...] = field(
        default=(),
        metadata=row(
            "volumes to leave out, counted from 0 in the source image; RUN:N of one run, as run-2:5 "
            "(default: none)",
            reads=str,
            several=True,
            metavar="N",
        ),
    )
    on_contradiction: str = field(
        default="warn",
        metadata=row(
            "what to do where the images contradict their table of b-values or the ImageType of their "
            "sidecar; a table that cannot be right is refused in any case",
            ("warn", "stop"),
        ),
    )
    max_bval: float = field(
        default=1000.0,
        metadata=row(
            "highest b-value used, s/mm^2; above it the bi-exponential model breaks", POSITIVE, metavar="B"
        ),
    )

    def __post_init__(self) -> None:
        _check(self)
        _require(
            not (self.per_slice and self.motion_correction == "none"),
            "--per-slice says how to correct motion and contradicts --motion-correction none",
        )
        _require(
            all(math.isfinite(b) and b >= 0 for b in self.ignore_bvals),
            "--ignore-bvals takes b-values of 0 or more",
        )
        _require(
            all(re.fullmatch(r"([0-9A-Za-z_-]+:)?[0-9]{1,9}", volume) for volume in self.ignore_volumes),
            "--ignore-volumes takes numbers of volumes from 0 on, or RUN:N, as run-2:5",
        )

    def ignored_volumes(self, run: str) -> tuple[int, ...]:
        """Volumes of a run that ``ignore_volumes`` names, from the run's name.

        Examples
        --------
        >>> steps = PreprocessingSettings(ignore_volumes=("3", "run-2:5", "acq-a_run-1:7"))
        >>> steps.ignored_volumes("sub-01_run-2"), steps.ignored_volumes("sub-01_acq-a_run-1")
        ((3, 5), (3, 7))
        """
        named = [text.rpartition(":") for text in self.ignore_volumes]
        entities = set(run.split("_"))
        return tuple(int(number) for of, _, number in named if not of or set(of.split("_")) <= entities)

    def option(self, name: str) -> Any:
        """Value of an option of a step."""
        return (vars(self) | self.added).get(name, step_options()[name].default)


NEIGHBOUR_THRESHOLD = Threshold(1.5, "sigma")
"""What ``auto`` is for signals that were not denoised."""


@dataclass(frozen=True)
class EstimationSettings:
    """How F, D and D* are estimated; the vocabulary is that of the SI-CNN supplement.

    Attributes
    ----------
    method : str
        One of :data:`sicnn_app.methods.METHODS`.
    preset : {'default', 'supplement', 'supplement-table'}
        Where the values below came from; recorded, never interpreted again.
    fitting_threshold, neighbour_threshold : Threshold
        Signals whose fitting error exceeds the first are rewritten; voxels whose predicted
        curves differ by less than the second are similar. The second is found from the data where it is
        None: see :func:`sicnn_app.sicnn.estimate.estimate`.
    neighbour_radius : int
        Half width, in voxels, of the square in-slice window searched for similar neighbours.
    update_rule : str or None
        What replaces a training signal; None: ``observed-neighbours`` for si-cnn,
        ``own-prediction`` for di-cnn.
    network_input : {'noisy', 'training'}
        Whether the network keeps seeing the noisy signals or the rewritten ones.
    rician : bool
        Reckon with the noise floor of magnitude signals.
    rician_way : {'means', 'model'}
        How: take the floor off the mean observed signals of similar neighbours, where these are averaged,
        or predict the mean of the Rician distribution instead of the noise-free signal.
    similarity : SimilaritySettings
    network : NetworkSettings
    fitting_error_against : {'noisy', 'training'}
        What the prediction is compared with.
    rewrite_curves : bool
        Rewrite whole curves, by the root mean square of their fitting errors over the threshold.
    rewrite_at_random : bool
        Rewrite as many signals as the fitting error would, but drawn at random: a control.
    restart_network : bool
        Begin every data iteration with a new network instead of carrying the weights on.
    weigh_bvals : bool
        Weigh b-values in the loss by the inverse variance of their averaged signals.
    validation_share : float
        Share of the mask in patches that are never trained on and never rewritten.
    lambda_ : Threshold
        Stop when the change of the training signals, relative to them or, in sigma, to their noise, falls
        below it: norms over all voxels and b-values. In sigma also where tissue changes everywhere.
    delta : float
        Training within a data iteration stops when its relative improvement falls below it.
    period_share : float
        Length of the periods by which convergence is judged, relative to those of the supplement's presets.
    max_iterations : int
        Most data iterations after the first training.
    learning_rate, dropout : float
    batch_size : int
        Tiles per optimiser step.
    random_seed : int
    epochs : int or None
        Total epochs of ``cnn``; None: as many as si-cnn takes when every training converges at once.
    ensemble : int
        Networks trained side by side, each on signals with noise drawn anew; 1: one, on the signals as they
        are.
    refinement : {'posterior', 'none'} or None
        What is done with the network's maps; None: ``posterior`` for methods that look for similar
        neighbours.
    training_scope : {'subject', 'study'}
        Whether a run's training starts from random weights or from a network trained on all runs of the
        dataset.
    bounds : Bounds
    """

    method: str = field(default="si-cnn", metadata=row("(default: {default})", METHODS))
    preset: str = field(
        default="default",
        metadata=row(
            "supplement: the logged hyperparameters; supplement-table: those of the logged table over "
            "SNR; flags given besides override it",
            ("default", "supplement", "supplement-table"),
        ),
    )
    fitting_threshold: Threshold = field(
        default=Threshold(0.1, "sigma"),
        metadata=row(
            "fitting error above which a training signal is rewritten: 0.03, 2.5sigma or auto "
            "(default: auto, {default})",
            reads=_threshold_or_auto,
            metavar="T",
        ),
    )
    neighbour_threshold: Threshold | None = field(
        default=None,
        metadata=row(
            "largest difference of predicted curves below which voxels are similar: 0.02, 1sigma or "
            f"auto (default: auto, {NEIGHBOUR_THRESHOLD}, after denoising more, by what it left "
            "in the shape of decays)",
            reads=_threshold_or_auto,
            metavar="T",
        ),
    )
    neighbour_radius: int = field(
        default=5, metadata=row("half width of the search window, voxels", AT_LEAST_1)
    )
    update_rule: str | None = field(
        default=None,
        metadata=row(
            "what a signal is replaced with "
            "(default: observed-neighbours for si-cnn, own-prediction for di-cnn)",
            UPDATE_RULES,
        ),
    )
    network_input: str = field(
        default="training",
        metadata=row("signals the network sees after the first rewriting", ("noisy", "training"), in_text=6),
    )
    rician: bool = field(
        default=False,
        metadata=row(
            "reckon with the noise floor of magnitude images: take it off the means of similar "
            "voxels, or, where none are averaged, predict it (default: ignore it)"
        ),
    )
    rician_way: str = field(
        default="means", metadata=row(allowed=("means", "model"), words="way of --rician")
    )
    similarity: SimilaritySettings = SimilaritySettings()
    network: NetworkSettings = NetworkSettings()
    fitting_error_against: str = "noisy"
    rewrite_curves: bool = False
    rewrite_at_random: bool = False
    restart_network: bool = False
    weigh_bvals: bool = True
    validation_share: float = field(default=0.0, metadata=row(allowed=SHARE))
    lambda_: Threshold = field(
        default=Threshold(0.06, "sigma"),
        metadata=row(
            "change of the training signals that ends the iterations, relative to them (0.01) or to their "
            "noise (0.06sigma) (default: auto, {default})",
            flags=("--lambda",),
            reads=_threshold_or_auto,
            metavar="T",
            in_text=4,
        ),
    )
    delta: float = field(
        default=0.02, metadata=row("relative improvement of the loss that ends a training", SHARE, in_text=5)
    )
    period_share: float = field(default=0.5, metadata=row(allowed=POSITIVE))
    max_iterations: int = field(default=4, metadata=row("most data iterations", AT_LEAST_0))
    learning_rate: float = field(default=3e-3, metadata=row("of the optimiser Adam", POSITIVE, in_text=1))
    batch_size: int = field(default=1, metadata=row("tiles per optimiser step", AT_LEAST_1, in_text=2))
    dropout: float = field(
        default=0.0, metadata=row("share of activations dropped in training", SHARE, in_text=3)
    )
    random_seed: int = field(
        default=0,
        metadata=row(
            "the same seed gives the same maps",
            Limit(f"between 0 and {MAX_SEED}, not {{}}", lambda seed: 0 <= seed <= MAX_SEED),
            in_text=7,
        ),
    )
    epochs: int | None = field(
        default=None,
        metadata=row(
            "total epochs of --method cnn; give those of an si-cnn run to compare the two "
            "(default: as many as si-cnn takes when every training converges at once)",
            reads=int,
        ),
    )
    ensemble: int = field(
        default=1,
        metadata=row(
            "networks trained side by side, each with a seed and noise of its own, whose means become the "
            "maps; without refinement their standard deviations are written",
            AT_LEAST_1,
        ),
    )
    refinement: str | None = field(
        default=None,
        metadata=row(
            "posterior: maps between the network's and what each voxel's own signals say, with standard "
            "deviations; none: the network's as they are (default: posterior for si-cnn, else none)",
            ("posterior", "none"),
        ),
    )
    training_scope: str = field(
        default="subject",
        metadata=row(
            "study: first one network for all runs of the dataset with the same b-values, whatever "
            "labels choose participants and sessions, then refined for each run",
            ("subject", "study"),
        ),
    )
    bounds: Bounds = Bounds()

    def __post_init__(self) -> None:
        _check(self)
        for flag, value, usual in (
            ("--training-scope", self.training_scope, "subject"),
            ("--ensemble", self.ensemble, 1),
        ):
            _require(
                value == usual or self.described.trains,
                f"{flag} {value} contradicts --method {self.method}, which trains nothing",
            )
        _require(
            self.ensemble == 1 or self.training_scope == "subject",
            f"--ensemble {self.ensemble} contradicts --training-scope {self.training_scope}: all networks "
            "would start from the same weights",
        )
        _expect(
            self.ensemble == 1 or self.network.normalisation != "batch",
            "the networks of an ensemble cannot have batch normalisation",
        )
        _require(
            self.update_rule is None or self.update_rule in self.described.update_rules,
            f"--update-rule {self.update_rule} contradicts --method {self.method}",
        )
        _require(
            self.refinement != "posterior" or self.described.searches_neighbours,
            f"--refinement posterior contradicts --method {self.method}: it is for si-cnn",
        )
        _expect(
            self.fitting_error_against in ("noisy", "training"),
            "the fitting error is taken against one of noisy, training",
        )
        _require(
            self.epochs is None or (self.described.takes_epochs and self.epochs >= 1),
            f"--epochs is for --method cnn and must be at least 1, not {self.epochs} for {self.method}",
        )

    @property
    def described(self) -> Method:
        """Row of the method."""
        return METHODS[self.method]

    @property
    def resolved_update_rule(self) -> str | None:
        """The update rule in force; None for methods that rewrite nothing."""
        return self.update_rule or next(iter(self.described.update_rules), None)

    @property
    def resolved_neighbour_threshold(self) -> Threshold:
        """The threshold in force, for signals that were not denoised where none was given."""
        return self.neighbour_threshold or NEIGHBOUR_THRESHOLD

    @property
    def resolved_refinement(self) -> str:
        """The refinement in force."""
        return self.refinement or ("posterior" if self.described.searches_neighbours else "none")

    @property
    def gives_spread(self) -> bool:
        """True when standard deviations come with the maps."""
        return self.ensemble > 1 or self.resolved_refinement == "posterior"

    @property
    def takes_floor_off_means(self) -> bool:
        """True when the noise floor is taken off mean observed signals."""
        means = self.resolved_update_rule == "observed-neighbours"
        return self.rician and means and self.rician_way == "means"

    @property
    def predicts_floor(self) -> bool:
        """True when the network's signals hold the noise floor."""
        return self.rician and not self.takes_floor_off_means


LEAST_SHARE = 0.001
"""GB: of what is less than that nothing can be said but that it is too little."""


@dataclass(frozen=True)
class ResourceSettings:
    """Where the work is done; none of it changes a map beyond what the determinism promise says.

    ``omp_nthreads`` is a fixed number and not the core count, because sums in another order
    change the last bits of a map.

    Attributes
    ----------
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    omp_nthreads : int
        CPU threads of one participant.
    mem : float or None
        GB to stay below, all participants at work on this machine together; with ``dask_scheduler``
        one participant.
    mem_from : str
        Where ``mem`` comes from, for messages.
    work_dir : Path or None
    nprocs : int
        Participants at work at the same time, each in a process of its own.
    dask_scheduler : str or None
        Address of a Dask scheduler whose workers process the participants.
    """

    device: str = field(
        default="auto",
        metadata=row(
            "auto, cpu, cuda or cuda:N; auto takes a GPU when there is one and says so",
            Limit(
                "auto, cpu, cuda or cuda:N, not {!r}",
                lambda device: re.fullmatch(r"auto|cpu|cuda(:\d+)?", device) is not None,
            ),
        ),
    )
    nprocs: int = field(
        default=1,
        metadata=row(
            "participants at work at the same time, each in a process of its own, and several GPUs in turn",
            AT_LEAST_1,
        ),
    )
    dask_scheduler: str | None = field(
        default=None,
        metadata=row(
            "let the workers of this Dask scheduler, such as tcp://10.0.0.1:8786, process the "
            "participants; they need the same paths and the same version. Whoever can connect to it can run "
            "programs there and here: use tls:// or a network of your own (default: this machine)",
            metavar="ADDRESS",
        ),
    )
    omp_nthreads: int = field(
        default=2,
        metadata=row(
            "CPU threads of one participant; another number may change the last bits of a map", AT_LEAST_1
        ),
    )
    mem: float | None = field(
        default=None,
        metadata=row(
            "memory to stay below: large series are streamed from disk; shared out evenly by "
            "--nprocs, per participant with --dask-scheduler (default: what the container or job may use, if "
            "that is limited)",
            Limit("a number of GB above 0, not {}", lambda size: math.isfinite(size) and size > 0),
            reads=float,
            metavar="GB",
        ),
    )
    mem_from: str = "--mem"
    work_dir: Path | None = field(
        default=None,
        metadata=row(
            "folder for locks, checkpoints and caches; everybody who writes into one output should "
            "name the same (default: OUTPUT_DIR/.work)",
            flags=("-w", "--work-dir"),
            reads=given_path,
            metavar="DIR",
        ),
    )

    def __post_init__(self) -> None:
        _check(self)
        _require(
            self.nprocs == 1 or self.dask_scheduler is None,
            f"--nprocs {self.nprocs} contradicts --dask-scheduler, whose workers decide how many "
            "participants are at work",
        )

    @property
    def in_tasks(self) -> bool:
        """True when each participant is a task of a Dask cluster."""
        return self.nprocs > 1 or self.dask_scheduler is not None

    def of_one_task(self, taken: float = 0.0) -> ResourceSettings:
        """The share that a single one of the participants that are at work at the same time may use.

        Parameters
        ----------
        taken : float
            GB that the process which starts them holds itself.
        """
        one = replace(self, nprocs=1, dask_scheduler=None)
        if self.mem is None or self.nprocs == 1:
            return one
        share = max(self.mem - taken, LEAST_SHARE) / self.nprocs
        return replace(
            one, mem=share, mem_from=f"the share of one of {self.nprocs} participants in {self.mem_from}"
        )


@dataclass(frozen=True)
class Settings:
    """Everything a call of ``sicnn-app`` asked for."""

    bids_dir: Path
    output_dir: Path
    analysis_level: str = "participant"
    selection: SelectionSettings = SelectionSettings()
    inputs: InputSettings = InputSettings()
    preprocessing: PreprocessingSettings = PreprocessingSettings()
    estimation: EstimationSettings = EstimationSettings()
    resources: ResourceSettings = ResourceSettings()
    dry_run: bool = field(
        default=False,
        metadata=row(
            "print what would be done with every run and how long it takes, with -v its files, then stop"
        ),
    )
    reports_only: bool = field(default=False, metadata=row("write the reports anew from the derivatives"))
    boilerplate_only: bool = field(
        default=False, metadata=row("write CITATION.md, print the methods text, then stop")
    )
    stop_on_first_crash: bool = field(
        default=False, metadata=row("stop at the first run that fails (default: go on with the others)")
    )
    overwrite: bool = field(
        default=False, metadata=row("replace outputs, also those of other settings (default: keep them)")
    )
    clean_workdir: bool = field(
        default=False,
        metadata=row("first remove what earlier calls left in the work directory, also checkpoints"),
    )
    report_level: str = field(
        default="default",
        metadata=row(
            "full writes the page of single voxels also where it takes more than 10 MB", ("default", "full")
        ),
    )
    verbosity: int = 0

    def __post_init__(self) -> None:
        _check(self)
        exclusive = [
            f"--{name.replace('_', '-')}"
            for name in ("dry_run", "reports_only", "boilerplate_only")
            if getattr(self, name)
        ]
        _require(len(exclusive) <= 1, f"{' and '.join(exclusive)} contradict each other: give one of them")
        _require(
            self.analysis_level == "participant" or not exclusive or self.dry_run,
            f"{' and '.join(exclusive)} is for the level participant: group always makes its page anew",
        )
        _require(
            self.inputs.mask_desc is None or bool(self.inputs.derivatives),
            "--mask-desc chooses among masks of --derivatives: give that too",
        )
        _require(
            self.analysis_level == "group" or self.inputs.ratings is None,
            "--ratings is for the level group: ratings come after the runs are processed",
        )

    @property
    def work_dir(self) -> Path:
        """Folder of locks, checkpoints and caches.

        Outputs are prepared in ``OUTPUT_DIR/.work``, from where they are renamed.
        """
        return self.resources.work_dir or self.output_dir / ".work"

    def with_real_work_dir(self) -> Settings:
        """The same with the folder that ``--work-dir`` leads to, where the user named a link."""
        named = self.resources.work_dir
        if named is None or not named.is_symlink():
            return self
        return replace(self, resources=replace(self.resources, work_dir=Path(os.path.realpath(named))))

    def with_absolute_paths(self) -> Settings:
        """The same for a process with another current directory.

        What is written is not normalised: ``link/..`` means another folder to the system than to the eye.

        Raises
        ------
        UsageError
            When there are relative paths, and the current directory was deleted.
        """

        def absolute(path: Path) -> Path:
            return Path(os.path.abspath(path))

        database = self.selection.bids_database_dir
        work, bvals, ratings = self.resources.work_dir, self.inputs.bvals, self.inputs.ratings
        with from_here():
            derivatives = {name: absolute(path) for name, path in self.inputs.derivatives.items()}
            return replace(
                self,
                bids_dir=absolute(self.bids_dir),
                output_dir=self.output_dir.absolute(),
                selection=replace(self.selection, bids_database_dir=database and database.absolute()),
                inputs=replace(
                    self.inputs,
                    derivatives=derivatives,
                    bvals=bvals and absolute(bvals),
                    ratings=ratings and absolute(ratings),
                ),
                resources=replace(self.resources, work_dir=work and work.absolute()),
            )

    def changing_maps(self) -> dict[str, Any]:
        """Settings that can change a map, JSON-serialisable: what a fingerprint covers."""
        estimation = {
            name: _plain(value) for name, value in vars(self.estimation).items() if name != "preset"
        }
        estimation["update_rule"] = self.estimation.resolved_update_rule
        estimation["refinement"] = self.estimation.resolved_refinement
        return {
            **estimation,
            "anatomy": self.preprocessing.anatomy,
            **{name: self.preprocessing.option(name) for name in step_options()},
            "average": self.preprocessing.average,
            "ignore_bvals": sorted(self.preprocessing.ignore_bvals),
            "ignore_volumes": sorted(self.preprocessing.ignore_volumes),
            "on_contradiction": self.preprocessing.on_contradiction,
            "max_bval": self.preprocessing.max_bval,
            "combine": self.selection.combine,
            "mask_desc": self.inputs.mask_desc,
        }


def _plain(value: Any) -> Any:
    """A setting as JSON knows it."""
    if isinstance(value, Threshold):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {name: list(part) if isinstance(part, tuple) else part for name, part in asdict(value).items()}
    return value


def preset_settings(name: str) -> dict[str, Any]:
    """Fields of :class:`EstimationSettings` that a preset sets; the others keep their defaults.

    The values are those of the experimental logs in the supplement: ``supplement`` the pair of thresholds
    called better at the end, ``supplement-table`` the pair behind the logged table over SNR. What the logs
    know nothing of, such as a limit on the ratio of S0, is off.

    Parameters
    ----------
    name : {'default', 'supplement', 'supplement-table'}
    """
    if name == "default":
        return {}
    fitting, neighbour = (0.03, 0.02) if name == "supplement" else (0.02, 0.03)
    return {
        "fitting_threshold": Threshold(fitting, "absolute"),
        "neighbour_threshold": Threshold(neighbour, "absolute"),
        "similarity": SimilaritySettings("root-mean-square", "equal", None),
        "network": NetworkSettings(normalisation="channels"),
        "weigh_bvals": False,
        "lambda_": Threshold(0.01, "absolute"),
        "period_share": 1.0,
        "delta": 0.05,
        "learning_rate": 1e-4,
        "dropout": 0.01,
        "batch_size": 25,
        "max_iterations": 200,
        "refinement": "none",
    }

"""What a run was asked to do: frozen, validated dataclasses without defaults hidden elsewhere.

May import ``ivim``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any

from sicnn_app.errors import UsageError
from sicnn_app.files import from_here
from sicnn_app.ivim.parameters import BOUNDS
from sicnn_app.methods import METHODS, Method
from sicnn_app.steps import STEPS, step_options

ANATOMIES = ("auto", "brain", "body")
COMBINE = ("none", "acquisition", "run", "direction")
NETWORK_INPUTS = ("noisy", "training")
TRAINING_SCOPES = ("subject", "study")
FITTING_ERROR_AGAINST = ("noisy", "training")
DISTANCES = ("maximum", "root-mean-square")
NEIGHBOUR_WEIGHTINGS = ("gaussian", "equal")
RICIAN_WAYS = ("means", "model")
NORMALISATIONS = ("channels", "none", "batch", "group")
REPORT_LEVELS = ("default", "full")
UPDATE_RULES = tuple(dict.fromkeys(rule for method in METHODS.values() for rule in method.update_rules))
PRESETS = ("default", "supplement", "supplement-table")

MAX_SEED = 2**32 - 1
"""Every random generator in use takes a seed of 32 bits."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def _require_one_of(flag: str, value: str, choices: Collection[str]) -> None:
    _require(value in choices, f"--{flag} must be one of {', '.join(choices)}, not {value!r}")


def _expect(condition: bool, message: str) -> None:
    """The same for settings that no flag reaches: a wrong one is a mistake in code."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Threshold:
    """A threshold on normalised signals: absolute, or a multiple of the noise.

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

    distance: str = "maximum"
    weighting: str = "gaussian"
    s0_ratio: float | None = 1.35

    def __post_init__(self) -> None:
        _expect(self.distance in DISTANCES, f"the distance must be one of {', '.join(DISTANCES)}")
        _expect(
            self.weighting in NEIGHBOUR_WEIGHTINGS,
            f"the weighting must be one of {', '.join(NEIGHBOUR_WEIGHTINGS)}",
        )
        _expect(self.s0_ratio is None or self.s0_ratio > 1, "the ratio of S0 must be above 1")


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
    kernel_size: int = 3
    normalisation: str = "channels"

    def __post_init__(self) -> None:
        _expect(min(self.width, self.depth) >= 1, "the network needs at least one channel and one layer")
        _expect(self.kernel_size % 2 == 1, "the kernel size must be odd")
        _expect(
            self.normalisation in NORMALISATIONS,
            f"the normalisation must be one of {', '.join(NORMALISATIONS)}",
        )


@dataclass(frozen=True)
class SelectionSettings:
    """Which runs of the dataset to process; labels without ``sub-``/``ses-`` prefixes."""

    participant_label: tuple[str, ...] = ()
    session_id: tuple[str, ...] = ()
    acquisition_label: tuple[str, ...] = ()
    run_label: tuple[str, ...] = ()
    bids_filters: dict[str, Any] = field(default_factory=dict)
    skip_bids_validation: bool = False
    bids_database_dir: Path | None = None
    combine: str = "none"

    def __post_init__(self) -> None:
        _require_one_of("combine", self.combine, COMBINE)


@dataclass(frozen=True)
class InputSettings:
    """Data besides the BIDS dataset: derivative datasets by name, b-values for trace images."""

    derivatives: dict[str, Path] = field(default_factory=dict)
    mask_desc: str | None = None
    bvals: Path | None = None


@dataclass(frozen=True)
class PreprocessingSettings:
    """What happens to the series before the estimation.

    ``max_bval`` and ``ignore_bvals`` in s/mm^2; ``added``: options of :data:`sicnn_app.steps.STEPS` that are
    no field of their own.
    """

    anatomy: str = "auto"
    denoise: str = STEPS["denoising"].options["denoise"].default
    unring: bool = False
    motion_correction: str = STEPS["motioncorrection"].options["motion_correction"].default
    per_slice: bool = False
    ignore_bvals: tuple[float, ...] = ()
    max_bval: float = 1000.0
    added: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_one_of("anatomy", self.anatomy, ANATOMIES)
        for name, option in step_options().items():
            if option.choices:
                _require_one_of(name.replace("_", "-"), self.option(name), option.choices)
        _require(
            not (self.per_slice and self.motion_correction == "none"),
            "--per-slice says how to correct motion and contradicts --motion-correction none",
        )
        _require(
            math.isfinite(self.max_bval) and self.max_bval > 0,
            f"--max-bval must be a number above 0, not {self.max_bval:g}",
        )
        _require(
            all(math.isfinite(b) and b >= 0 for b in self.ignore_bvals),
            "--ignore-bvals takes b-values of 0 or more",
        )

    def option(self, name: str) -> Any:
        """Value of an option of a step."""
        if name in self.__dataclass_fields__:
            return getattr(self, name)
        return self.added.get(name, step_options()[name].default)


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
        curves differ by less than the second (root mean square over b-values) are similar.
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
    lambda_ : float
        Stop when the relative change of the training signals falls below it.
    delta : float
        Training within a data iteration stops when its relative improvement falls below it.
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
    training_scope : {'subject', 'study'}
        Whether a run's training starts from random weights or from a network trained on all runs of the
        dataset.
    bounds : Bounds
    """

    method: str = "si-cnn"
    preset: str = "default"
    fitting_threshold: Threshold = Threshold(0.1, "sigma")
    neighbour_threshold: Threshold = Threshold(1.5, "sigma")
    neighbour_radius: int = 5
    update_rule: str | None = None
    network_input: str = "training"
    rician: bool = False
    rician_way: str = "means"
    similarity: SimilaritySettings = SimilaritySettings()
    network: NetworkSettings = NetworkSettings()
    fitting_error_against: str = "noisy"
    rewrite_curves: bool = False
    rewrite_at_random: bool = False
    restart_network: bool = False
    weigh_bvals: bool = True
    validation_share: float = 0.0
    lambda_: float = 0.005
    delta: float = 0.02
    max_iterations: int = 8
    learning_rate: float = 3e-3
    batch_size: int = 1
    dropout: float = 0.0
    random_seed: int = 0
    epochs: int | None = None
    ensemble: int = 1
    training_scope: str = "subject"
    bounds: Bounds = Bounds()

    def __post_init__(self) -> None:
        _require_one_of("method", self.method, METHODS)
        _require_one_of("preset", self.preset, PRESETS)
        if self.update_rule is not None:
            _require_one_of("update-rule", self.update_rule, UPDATE_RULES)
        _require_one_of("network-input", self.network_input, NETWORK_INPUTS)
        _require_one_of("training-scope", self.training_scope, TRAINING_SCOPES)
        _require(
            self.training_scope == "subject" or self.described.trains,
            f"--training-scope {self.training_scope} contradicts --method {self.method}, which trains "
            "nothing",
        )
        _require(self.ensemble >= 1, f"--ensemble must be at least 1, not {self.ensemble}")
        _require(
            self.ensemble == 1 or self.described.trains,
            f"--ensemble {self.ensemble} contradicts --method {self.method}, which trains nothing",
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
        if self.update_rule is not None:
            _require(
                self.update_rule in self.described.update_rules,
                f"--update-rule {self.update_rule} contradicts --method {self.method}",
            )
        _expect(
            self.fitting_error_against in FITTING_ERROR_AGAINST,
            f"the fitting error is taken against one of {', '.join(FITTING_ERROR_AGAINST)}",
        )
        _expect(
            self.rician_way in RICIAN_WAYS, f"the way of --rician must be one of {', '.join(RICIAN_WAYS)}"
        )
        _expect(0 <= self.validation_share < 1, "the validation share must be at least 0 and below 1")
        _require(
            self.neighbour_radius >= 1, f"--neighbour-radius must be at least 1, not {self.neighbour_radius}"
        )
        _require(
            math.isfinite(self.lambda_) and self.lambda_ >= 0,
            f"--lambda must be a number of 0 or more, not {self.lambda_:g}",
        )
        _require(0 <= self.delta < 1, f"--delta must be at least 0 and below 1, not {self.delta:g}")
        _require(self.max_iterations >= 0, f"--max-iterations must be 0 or more, not {self.max_iterations}")
        _require(
            math.isfinite(self.learning_rate) and self.learning_rate > 0,
            f"--learning-rate must be a number above 0, not {self.learning_rate:g}",
        )
        _require(self.batch_size >= 1, f"--batch-size must be at least 1, not {self.batch_size}")
        _require(
            self.epochs is None or (self.described.takes_epochs and self.epochs >= 1),
            f"--epochs is for --method cnn and must be at least 1, not {self.epochs} for {self.method}",
        )
        _require(0 <= self.dropout < 1, f"--dropout must be at least 0 and below 1, not {self.dropout:g}")
        _require(
            0 <= self.random_seed <= MAX_SEED,
            f"--random-seed must be between 0 and {MAX_SEED}, not {self.random_seed}",
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
    def takes_floor_off_means(self) -> bool:
        """Whether the noise floor is taken off mean observed signals."""
        means = self.resolved_update_rule == "observed-neighbours"
        return self.rician and means and self.rician_way == "means"

    @property
    def predicts_floor(self) -> bool:
        """Whether the network's signals hold the noise floor."""
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

    device: str = "auto"
    omp_nthreads: int = 2
    mem: float | None = None
    mem_from: str = "--mem"
    work_dir: Path | None = None
    nprocs: int = 1
    dask_scheduler: str | None = None

    def __post_init__(self) -> None:
        _require(
            re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is not None,
            f"--device must be auto, cpu, cuda or cuda:N, not {self.device!r}",
        )
        _require(self.omp_nthreads >= 1, f"--omp-nthreads must be at least 1, not {self.omp_nthreads}")
        _require(
            self.mem is None or (math.isfinite(self.mem) and self.mem > 0),
            f"--mem must be a number of GB above 0, not {self.mem}",
        )
        _require(self.nprocs >= 1, f"--nprocs must be at least 1, not {self.nprocs}")
        _require(
            self.nprocs == 1 or self.dask_scheduler is None,
            f"--nprocs {self.nprocs} contradicts --dask-scheduler, whose workers decide how many "
            "participants are at work",
        )

    @property
    def in_tasks(self) -> bool:
        """Whether each participant is a task of a Dask cluster."""
        return self.nprocs > 1 or self.dask_scheduler is not None

    def of_one_task(self, taken: float = 0.0) -> ResourceSettings:
        """What a single one of the participants that are at work at the same time may use.

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
    dry_run: bool = False
    reports_only: bool = False
    report_level: str = "default"
    boilerplate_only: bool = False
    stop_on_first_crash: bool = False
    overwrite: bool = False
    clean_workdir: bool = False
    verbosity: int = 0

    def __post_init__(self) -> None:
        exclusive = [
            flag
            for flag, on in (
                ("--dry-run", self.dry_run),
                ("--reports-only", self.reports_only),
                ("--boilerplate-only", self.boilerplate_only),
            )
            if on
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
        work, bvals = self.resources.work_dir, self.inputs.bvals
        with from_here():
            derivatives = {name: absolute(path) for name, path in self.inputs.derivatives.items()}
            return replace(
                self,
                bids_dir=absolute(self.bids_dir),
                output_dir=self.output_dir.absolute(),
                selection=replace(self.selection, bids_database_dir=database and database.absolute()),
                inputs=replace(self.inputs, derivatives=derivatives, bvals=bvals and absolute(bvals)),
                resources=replace(self.resources, work_dir=work and work.absolute()),
            )

    def changing_maps(self) -> dict[str, Any]:
        """Settings that can change a map, JSON-serialisable: what a fingerprint covers."""
        estimation = {
            name: _plain(value) for name, value in vars(self.estimation).items() if name != "preset"
        }
        estimation["update_rule"] = self.estimation.resolved_update_rule
        return {
            **estimation,
            "anatomy": self.preprocessing.anatomy,
            **{name: self.preprocessing.option(name) for name in step_options()},
            "ignore_bvals": sorted(self.preprocessing.ignore_bvals),
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
        "weigh_bvals": False,
        "lambda_": 0.01,
        "delta": 0.05,
        "learning_rate": 1e-4,
        "dropout": 0.01,
        "batch_size": 25,
        "max_iterations": 200,
    }

"""What an epoch of the training costs when it is computed in other ways, and what that changes.

    GOMP_SPINCOUNT=2000 python -m benchmarks.speed.epoch_variants --out docs/speed

The same weights and tiles at the start; the variants take turns, one epoch each, and every ratio is that of
neighbours in time, so that other jobs on the machine disturb all of them alike. The loss after the epochs
tells whether the variant still computes the same. Two minutes on two cores; `--device cuda` adds CUDA graphs.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.common.cells import (
    comma_separated,
    command_line,
    markdown,
    parser_of,
    provenance,
    write_tables,
)
from benchmarks.common.scenarios import Scenario, measure
from sicnn_app.settings import EstimationSettings
from sicnn_app.sicnn.cropping import Box, training_data
from sicnn_app.sicnn.estimate import build_trainer
from sicnn_app.sicnn.memory_fallback import Attempt
from sicnn_app.sicnn.reproducible import reproducible
from sicnn_app.sicnn.train import Trainer, TrainingData
from sicnn_app.sicnn.whitening import Whitening

SCENARIO = Scenario(20.0, 0, shape=(128, 128, 4))

ROUNDS = 8

Change = Callable[[Trainer, TrainingData], None]


@dataclass(frozen=True)
class Variant:
    """One way to compute an epoch.

    Attributes
    ----------
    batch_size : int
        Tiles per optimiser step.
    threads : int
    filled : bool
        Memory that was not written yet is filled, torch's habit under deterministic algorithms.
    bfloat16 : bool
        Convolutions in half precision.
    change : callable, optional
        Done to a new trainer.
    runs_on : tuple of str
        Types of devices.
    needs : str, optional
        A program without which it cannot be tried.
    """

    batch_size: int = 1
    threads: int = 1
    filled: bool = False
    bfloat16: bool = False
    change: Change | None = None
    runs_on: tuple[str, ...] = ("cpu", "cuda")
    needs: str | None = None


def contiguous(trainer: Trainer, data: TrainingData) -> None:
    """Weights, and with them all hidden layers, in torch's usual layout."""
    trainer.network.to(memory_format=torch.contiguous_format)


def fused_adam(trainer: Trainer, data: TrainingData) -> None:
    """The whole step of the optimiser in one call."""
    trainer.optimiser = torch.optim.Adam(trainer.network.parameters(), lr=trainer.learning_rate, fused=True)


def unfused_adam(trainer: Trainer, data: TrainingData) -> None:
    """The step of the optimiser in single operations."""
    trainer.optimiser = torch.optim.Adam(trainer.network.parameters(), lr=trainer.learning_rate)


def as_in_version_0_4(trainer: Trainer, data: TrainingData) -> None:
    """Adam steps weight by weight, and the weights are looked up in every step."""
    trainer.optimiser = torch.optim.Adam(
        trainer.network.parameters(), lr=trainer.learning_rate, foreach=False
    )
    average = trainer._update_average

    def look_up_and_average() -> None:
        trainer._weights = list(trainer.network.parameters())
        trainer._averaged_weights = list(trainer.averaged.parameters())
        trainer._buffers = list(zip(trainer.averaged.buffers(), trainer.network.buffers(), strict=True))
        average()

    trainer._update_average = look_up_and_average


def compiled(trainer: Trainer, data: TrainingData) -> None:
    """The network through torch.compile; the first epoch pays for it."""
    trainer.network.compile(dynamic=False)


def cuda_graph(trainer: Trainer, data: TrainingData) -> None:
    """Forward and backward pass of the network as two recorded graphs; all tiles have one shape."""
    tile = next(trainer._batches(data, data.signals, data.signals))[0]
    trainer.network = torch.cuda.make_graphed_callables(trainer.network, (tile,))


VARIANTS: dict[str, Variant] = {
    "as it is": Variant(),
    "new memory filled": Variant(filled=True),
    "new memory filled, weight by weight (version 0.4)": Variant(filled=True, change=as_in_version_0_4),
    "usual layout of memory": Variant(change=contiguous),
    "fused Adam": Variant(change=fused_adam, runs_on=("cpu",)),
    "Adam in single operations": Variant(change=unfused_adam, runs_on=("cuda",)),
    "bfloat16": Variant(bfloat16=True),
    "torch.compile": Variant(change=compiled, needs="c++"),
    "CUDA graphs": Variant(change=cuda_graph, runs_on=("cuda",)),
    "two threads": Variant(threads=2, runs_on=("cpu",)),
    "4 tiles per step": Variant(batch_size=4),
    "4 tiles per step, two threads": Variant(batch_size=4, threads=2, runs_on=("cpu",)),
}


@dataclass
class Timed:
    """A trainer in one variant, with what its epochs took.

    Attributes
    ----------
    first : float
        Seconds of the first epoch, which pays for compilation; not among the others.
    wall, cpu : list of float, s
    """

    variant: Variant
    trainer: Trainer
    device: torch.device
    first: float = 0.0
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def epoch(self, data: TrainingData) -> tuple[float, float]:
        """Train for one epoch; seconds on the wall clock and of all cores."""
        with _surroundings(self.variant, self.device):
            started, used = time.perf_counter(), time.process_time()
            self.trainer.train_epoch(data, data.signals, data.signals)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            return time.perf_counter() - started, time.process_time() - used


@contextmanager
def _surroundings(variant: Variant, device: torch.device) -> Iterator[None]:
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        stack.enter_context(reproducible(device, 0))
        torch.utils.deterministic.fill_uninitialized_memory = variant.filled
        if variant.bfloat16:
            stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
        torch.set_num_threads(variant.threads)
        yield
    torch.set_num_threads(threads)


def start(variant: Variant, data: TrainingData, bvals: torch.Tensor, device: torch.device) -> Timed:
    """A trainer with the weights that all variants start from."""
    with reproducible(device, 0):
        trainer = build_trainer(
            bvals,
            torch.ones_like(bvals),
            Whitening.of(data.signals, data.weight),
            EstimationSettings(),
            Attempt(str(device), variant.batch_size),
        )
    if variant.change is not None:
        variant.change(trainer, data)
    return Timed(variant, trainer, device)


def run(
    names: list[str], *, device: torch.device, scenario: Scenario = SCENARIO, rounds: int = ROUNDS
) -> list[list[str]]:
    """One row per variant.

    Returns
    -------
    list of list of str
        Name; time on the wall clock and of all cores relative to those of the first variant, medians over
        rounds; the first epoch in epochs of the first variant; loss after all epochs relative to its loss.
    """
    measured = measure(scenario)
    data, _ = training_data(
        measured.signals, Box.around(measured.mask), measured.sigma, measured.sigma_per_bval
    )
    data = data.to(device)
    bvals = torch.tensor(measured.bvals, dtype=torch.float32, device=device)
    timed = {name: start(VARIANTS[name], data, bvals, device) for name in names}
    for one in timed.values():
        one.first, _ = one.epoch(data)
    for _ in range(rounds):
        for one in timed.values():
            wall, cpu = one.epoch(data)
            one.wall.append(wall)
            one.cpu.append(cpu)
    reference = timed[names[0]]
    usual = statistics.median(reference.wall)
    return [
        [
            name,
            f"{_ratio(one.wall, reference.wall):.2f}",
            f"{_ratio(one.cpu, reference.cpu):.2f}",
            f"{one.first / usual:.1f}",
            f"{one.trainer.losses[-1] / reference.trainer.losses[-1]:.2f}",
        ]
        for name, one in timed.items()
    ]


def _ratio(values: list[float], reference: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(values, reference, strict=True))


def possible(device: torch.device) -> list[str]:
    """Variants that can be tried on a device, with the programs there are."""
    return [
        name
        for name, variant in VARIANTS.items()
        if device.type in variant.runs_on and (variant.needs is None or shutil.which(variant.needs))
    ]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, help="folder of the table; it is printed in any case")
    options = parser.parse_args()
    device = torch.device(options.device)
    rows = run(possible(device), device=device, rounds=options.rounds)
    columns = ["variant", "wall clock", "all cores", "first epoch", "loss"]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    text = f"Made by {provenance(command_line(), device=name)}.\n\n"
    text += markdown(columns, rows) + "\n"
    print(text)
    if options.out is not None:
        suffix = "" if device.type == "cpu" else f"_{device.type}"
        write_tables(options.out, f"epoch_variants{suffix}", text, comma_separated(columns, rows))


if __name__ == "__main__":
    main()

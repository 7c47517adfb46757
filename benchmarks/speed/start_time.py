"""How soon the app answers: imports, ``--help``, ``--version`` and the dry run.

    python -m benchmarks.speed.start_time [--image sicnn-app:cpu]

Medians of processes of their own. Seconds are those of this machine; the ratios to a Python that does nothing
(``python -c pass``), started in turn with the others, can be compared between machines. With ``--image``
the same is done in a container under a read-only root and without network, against ``python -c pass`` there.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common.cells import command_line, markdown, parser_of, provenance

DATASET = Path(__file__).parents[2] / "bids_examples" / "abdomen"
PYTHON = "/opt/sicnn-app/bin/python"
LOCKED = ("--rm", "--read-only", "--network=none", "--user=1234:1234", f"--volume={DATASET}:/bids:ro")

CALLS = {
    "python -c pass": ("-c", "pass"),
    "import sicnn_app.pipeline.dispatch": ("-c", "import sicnn_app.pipeline.dispatch"),
    "import torch": ("-c", "import torch"),
    "--version": ("-m", "sicnn_app", "--version"),
    "--help": ("-m", "sicnn_app", "--help"),
    "--dry-run": ("-m", "sicnn_app", "DATASET", "/nowhere/out", "participant", "--dry-run"),
}
"""Arguments of Python, the first of which the others are divided by."""


def on_host(arguments: tuple[str, ...]) -> list[str]:
    """The command in this Python."""
    return [sys.executable, *(word.replace("DATASET", str(DATASET)) for word in arguments)]


def in_container(image: str, arguments: tuple[str, ...]) -> list[str]:
    """The command in a container."""
    words = (word.replace("DATASET", "/bids") for word in arguments)
    return ["docker", "run", *LOCKED, f"--entrypoint={PYTHON}", image, *words]


def seconds(command: list[str]) -> float:
    """Wall-clock time of one command."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def medians(commands: dict[str, list[str]], repeats: int) -> dict[str, float]:
    """Median seconds of every command; they take turns, so that a busy machine slows all of them."""
    taken = [{name: seconds(command) for name, command in commands.items()} for _ in range(repeats)]
    return {name: statistics.median(turn[name] for turn in taken) for name in commands}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--image", help="also in containers of this image")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    places = {"host": {name: on_host(call) for name, call in CALLS.items()}}
    if options.image:
        places["container"] = {name: in_container(options.image, call) for name, call in CALLS.items()}
    rows = []
    for place, commands in places.items():
        found = medians(commands, options.repeats)
        idle = found["python -c pass"]
        rows += [[place, name, f"{taken:.2f}", f"{taken / idle:.1f}"] for name, taken in found.items()]
    print(provenance(command_line()), end="\n\n")
    print(markdown(["where", "call", "seconds", "times python -c pass"], rows))


if __name__ == "__main__":
    main()

"""How the image behaves under the conditions of shared machines: the quick part."""

from __future__ import annotations

import subprocess

from image import EXAMPLES, Image, maps, require, require_exit, require_same_maps, require_text

QUICK = ("--method", "lsq")
"""Least squares: everything but the training, which takes most of the time."""

STOP_AFTER = "of at most"
"""Said, with ``-v``, after every data iteration of a training."""

TOO_LITTLE_MEMORY = ("320m", "550m")
"""No room for PyTorch, and room for PyTorch but for no run."""

ENOUGH_MEMORY = {"cpu": "1g", "cuda": "2g"}


def check_abdomen(image: Image) -> None:
    """The default method: root and input read-only, no network, account or capability, 64 MB of /dev/shm."""
    image.example("abdomen")


def check_empty_environment(image: Image) -> None:
    """Without any environment variable, so without HOME and PATH."""
    out = image.output_folder("empty-environment")
    process = image.run(
        *("-i", image.program, "/bids", "/out", "participant", *QUICK),
        bids=EXAMPLES / "brain",
        out=out,
        options=("--entrypoint=/usr/bin/env",),
    )
    require_exit(process, 0)
    image.require_outputs(out, "brain_lsq")


def check_stop_and_go_on(image: Image) -> None:
    """`docker stop` ends a training with 75; the same command goes on to the very same maps."""
    reference = image.example("abdomen")
    out, name = image.output_folder("stopped"), f"{image.scratch.name}-stopped"
    call = {"bids": EXAMPLES / "abdomen", "out": out}
    # Without --rm: how a container ended can be asked only while it is there.
    command = image.command("/bids", "/out", "participant", "-v", options=(f"--name={name}",), **call)
    command.remove("--rm")
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said = iter(started.stdout.readline, "")
        # A state is written after the first of them, before the second ends.
        for _ in range(2):
            require(
                any(STOP_AFTER in line for line in said), "the run ended before an iteration of its training"
            )
        subprocess.run(["docker", "stop", name], capture_output=True, check=True)
        rest, _ = started.communicate(timeout=60)
        require(started.returncode == 75, f"exit code {started.returncode} instead of 75:\n{rest}")
        require("stopped by SIGTERM" in rest, f"no word of the stop:\n{rest}")
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)
    require(not maps(out), "a run that was stopped left maps under their final names")
    saved = list((out / ".work").rglob("training.pt"))
    require(bool(saved), "no checkpoint was left to go on from")
    require_exit(image.run("/bids", "/out", "participant", **call), 0)
    require_same_maps(out, reference)


def check_memory_limit(image: Image) -> None:
    """`--memory`: a run that fits makes the same maps; one that does not ends with 75 and says why."""
    enough = ENOUGH_MEMORY[image.target]
    out = image.output_folder("enough-memory")
    call = {"bids": EXAMPLES / "abdomen", "out": out}
    arguments = ("/bids", "/out", "participant", *QUICK)
    fits = image.run(*arguments, options=(f"--memory={enough}", f"--memory-swap={enough}"), **call)
    require_exit(fits, 0)
    require_text(fits, "the memory limit of this container or job")
    require_same_maps(out, image.example("abdomen", *QUICK))

    for limit in TOO_LITTLE_MEMORY:
        call["out"] = image.output_folder(f"too-little-memory-{limit}")
        refused = image.run(*arguments, options=(f"--memory={limit}", f"--memory-swap={limit}"), **call)
        require_exit(refused, 75)
        require_text(refused, "the memory limit of this container or job")
        require(not maps(call["out"]), "maps were written")


def check_group(image: Image) -> None:
    """`group` gathers what the participant level wrote; the dataset is not even mounted."""
    out = image.example("brain", *QUICK)
    process = image.run("/bids", "/out", "group", out=out)
    require_exit(process, 0)
    image.require_outputs(out, "brain_lsq_group")


def check_refusals(image: Image) -> None:
    """What must fail ends with the code of its reason: 18, 16, 64, 66, 69 and 73."""
    abdomen = EXAMPLES / "abdomen"
    nobody = ("--participant-label", "nobody")
    out, empty = image.output_folder("refused"), image.output_folder("empty-input")
    require_exit(image.run("/bids", "/out", "participant", *nobody, bids=abdomen, out=out), 18)
    require_exit(image.run("/bids", "/out", "participant", bids=empty, out=out), 16)
    require_exit(image.run("/bids", "/out", "participant", "--method", "magic", bids=abdomen, out=out), 64)
    require_exit(image.run("/nothing", "/out", "participant", bids=abdomen, out=out), 66)
    require_exit(image.run("/bids", "/out", "participant", "--device", "cuda", bids=abdomen, out=out), 69)
    require(not maps(out), "a refused call wrote maps")
    locked = image.output_folder("read-only-output")
    locked.chmod(0o555)
    require_exit(image.run("/bids", "/out", "participant", bids=abdomen, out=locked), 73)


CHECKS = (
    check_abdomen,
    check_empty_environment,
    check_stop_and_go_on,
    check_memory_limit,
    check_group,
    check_refusals,
)

"""How the image behaves under the conditions of shared machines: the longer part, run with ``--all``."""

from __future__ import annotations

import subprocess
from pathlib import Path

from conditions import QUICK
from image import (
    EXAMPLES,
    Image,
    expected_path,
    maps,
    require,
    require_exit,
    require_same,
    require_same_maps,
    stable_name,
)

STUDY = ("--preset", "abdomen", "--subjects", "2", "--shape", "24", "20", "2", "--snr", "30")
"""Options of sicnn-simulate for a study of two participants, as small as the phantom allows."""

HELD = 75


def check_brain(image: Image) -> None:
    """The default method on two sessions of a brain."""
    image.example("brain")


def check_methods(image: Image) -> None:
    """Every other method, and an ensemble, on the abdomen."""
    for method in ("lsq", "cnn", "di-cnn"):
        image.example("abdomen", "--method", method)
    out = image.output_folder("ensemble")
    arguments = ("/bids", "/out", "participant", "--ensemble", "2", "--report-level", "full")
    require_exit(image.run(*arguments, bids=EXAMPLES / "abdomen", out=out), 0)
    image.require_outputs(out, "abdomen_ensemble_full-report")


def check_one_cpu(image: Image) -> None:
    """One processor gives the same maps: the number of threads is fixed, not that of the cores."""
    require_condition(image, "one-cpu", "--cpus=1")


def check_home(image: Image) -> None:
    """HOME that does not exist, and HOME that is no folder."""
    for name in ("/nonexistent/home", "/etc/passwd"):
        require_condition(image, f"home-{Path(name).name}", f"--env=HOME={name}", method=QUICK)


def check_work_on_another_file_system(image: Image) -> None:
    """The work directory on a file system of its own, where nothing can be renamed into the output."""
    scratch = ("--tmpfs=/scratch:rw,mode=1777",)
    require_condition(image, "work-elsewhere", *scratch, method=QUICK, arguments=("-w", "/scratch"))


def check_output_on_another_file_system(image: Image) -> None:
    """The output in memory (tmpfs), the work directory on a disk."""
    work = image.output_folder("work-on-disk")
    script = '"$@" && cd /out && find . -type f'
    app = (image.program, "/bids", "/out", "participant", *QUICK, "-w", "/scratch")
    process = image.run(
        *("-c", script, "sh", *app),
        bids=EXAMPLES / "abdomen",
        options=("--entrypoint=/bin/sh", "--tmpfs=/out:rw,mode=1777", f"--volume={work}:/scratch"),
    )
    require_exit(process, 0)
    written = {stable_name(Path(line)) for line in process.stdout.splitlines() if line.startswith("./")}
    wanted = expected_path("abdomen_lsq").read_text(encoding="utf-8").splitlines()
    require_same("files written", sorted(written), wanted)
    require(not list(work.iterdir()), "something is left in the work directory")


def check_two_containers_at_once(image: Image) -> None:
    """Two containers, a participant each, write one output: as complete as one container makes it."""
    study, out, alone = simulated_study(image), image.output_folder("shared"), image.output_folder("alone")
    require_exit(image.run("/bids", "/out", "participant", *QUICK, bids=study, out=alone), 0)
    image.require_outputs(alone, "study_lsq")
    calls = [
        image.command(
            "/bids", "/out", "participant", *QUICK, "--participant-label", label, bids=study, out=out
        )
        for label in ("01", "02")
    ]
    for process in at_once(calls):
        require_exit(process, 0)
    image.require_outputs(out, "study_lsq")
    require_same_maps(out, alone)


def check_two_containers_on_one_run(image: Image) -> None:
    """Two containers of one host name want one run: one makes it, the other ends with 75 or finds it done."""
    out = image.output_folder("contested")
    options = ("--hostname=node",)
    call = image.command(
        "/bids", "/out", "participant", *QUICK, bids=EXAMPLES / "abdomen", out=out, options=options
    )
    processes = at_once([call, call])
    for process in processes:
        require_exit(process, 0, HELD)
    require(any(process.returncode == 0 for process in processes), "neither made the run")
    image.require_outputs(out, "abdomen_lsq")
    require_same_maps(out, image.example("abdomen", *QUICK))


def require_condition(
    image: Image, name: str, *options: str, method: tuple[str, ...] = (), arguments: tuple[str, ...] = ()
) -> None:
    """Raise unless a run of the abdomen under a condition makes the maps that it makes without."""
    out = image.output_folder(name)
    call = ("/bids", "/out", "participant", *method, *arguments)
    require_exit(image.run(*call, bids=EXAMPLES / "abdomen", out=out, options=options), 0)
    image.require_outputs(out, f"abdomen_{method[1] if method else 'si-cnn'}")
    require_same_maps(out, image.example("abdomen", *method))


def simulated_study(image: Image) -> Path:
    """A dataset of two participants, made by the image itself."""
    made = image.output_folder("simulated")
    options = ("--entrypoint=sicnn-simulate",)
    require_exit(image.run("/out/study", *STUDY, out=made, options=options), 0)
    require(not maps(made / "study" / "sub-01"), "the raw data hold maps")
    return made / "study"


def at_once(commands: list[list[str]]) -> list[subprocess.CompletedProcess[str]]:
    """Start commands together and wait for all."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, **streams) for command in commands]
    return [
        subprocess.CompletedProcess(process.args, process.wait(), *said)
        for process, said in [(process, process.communicate()) for process in started]
    ]


CHECKS = (
    check_brain,
    check_methods,
    check_one_cpu,
    check_home,
    check_work_on_another_file_system,
    check_output_on_another_file_system,
    check_two_containers_at_once,
    check_two_containers_on_one_run,
)

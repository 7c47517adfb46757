#!/usr/bin/env python3
"""Build an image and hold it to the habits the app promises, on a real container engine.

    run_container_checks.py [--target cpu] [--image NAME] [-- OPTIONS OF docker build ...]

Needs nothing but the ``docker`` command and the standard library. Every check is a real run of the
image: read-only root filesystem, no network, a user that has no account, read-only input.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "bids_examples"
USER = 1234
LOCKED = ("--rm", "--read-only", "--network=none", f"--user={USER}:{USER}")
MAX_CPU_BYTES = 2.2e9
MAX_VERSION_SECONDS = 5.0

TOP_FILES = ("dataset_description.json", "README.md", "CITATION.md", ".bidsignore", "descriptions.tsv")
MAP_FILES = tuple(
    f"_model-ivim_param-{label}_dwimap.{extension}"
    for label in ("f", "d", "dstar", "s0", "rmse")
    for extension in ("nii.gz", "json")
)
RUN_FILES = (
    *MAP_FILES,
    *(f"_desc-ivimflags_dseg.{extension}" for extension in ("nii.gz", "json", "tsv")),
    *(f"_desc-preproc_dwi.{extension}" for extension in ("nii.gz", "json", "bval")),
    *(f"_desc-ivim_qc.{extension}" for extension in ("tsv", "json")),
)


class Image:
    """The image under test and the example datasets, with `docker run` made short."""

    def __init__(self, name: str, target: str, scratch: Path) -> None:
        self.name = name
        self.target = target
        self.scratch = scratch
        inspected = subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=True)
        self.description = json.loads(inspected.stdout)[0]

    def output_folder(self, name: str) -> Path:
        """Return a new empty folder that any user may write."""
        folder = self.scratch / name
        folder.mkdir()
        folder.chmod(0o777)
        return folder

    def run(
        self,
        *arguments: str,
        bids: Path | None = None,
        out: Path | None = None,
        options: tuple[str, ...] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run the image under the strictest conditions; ``bids`` is mounted read-only."""
        mounts = [f"--volume={bids}:/bids:ro"] if bids else []
        mounts += [f"--volume={out}:/out"] if out else []
        command = ["docker", "run", *LOCKED, *mounts, *options, self.name, *arguments]
        return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def require(condition: bool, message: str) -> None:
    """Raise AssertionError, also under ``python -O``."""
    if not condition:
        raise AssertionError(message)


def require_exit(process: subprocess.CompletedProcess[str], code: int) -> None:
    """Raise unless the process ended with ``code``, and without a traceback."""
    tail = "\n".join((process.stdout + process.stderr).splitlines()[-15:])
    require(process.returncode == code, f"exit code {process.returncode} instead of {code}:\n{tail}")
    require("Traceback" not in process.stderr, f"a traceback reached the user:\n{tail}")


def require_outputs(dataset: Path, out: Path, anatomy: str, per_run: tuple[str, ...]) -> None:
    """Raise unless every output of every run is there, owned by the user, and nothing else remains."""
    images = sorted(dataset.glob("sub-*/**/dwi/*_dwi.nii.gz"))
    require(bool(images), f"{dataset} holds no DWI image")
    expected = [out / name for name in TOP_FILES]
    for image in images:
        folder = out / image.parent.relative_to(dataset)
        source = image.name.removesuffix("_dwi.nii.gz")
        expected += [folder / (source + ending) for ending in per_run]
        expected += [folder / f"{source}_desc-{anatomy}_mask.{extension}" for extension in ("nii.gz", "json")]
        subject = "_".join(part for part in source.split("_") if part.startswith(("sub-", "ses-")))
        expected.append(out / f"{subject}.html")
    missing = [
        str(path.relative_to(out)) for path in expected if not path.is_file() or not path.stat().st_size
    ]
    require(not missing, f"missing or empty: {', '.join(missing)}")

    written = sorted(out.rglob("*"))
    foreign = [str(path) for path in written if (path.stat().st_uid, path.stat().st_gid) != (USER, USER)]
    require(not foreign, f"not owned by {USER}:{USER}: {', '.join(foreign)}")
    left = [str(path.relative_to(out)) for path in written if is_leftover(path)]
    require(not left, f"left over: {', '.join(left)}")


def is_leftover(path: Path) -> bool:
    """Whether a path in the output is a work folder, a lock or a temporary file."""
    hidden = path.name.startswith(".") and path.name != ".bidsignore"
    return hidden or path.suffix in (".lock", ".tmp", ".part")


def check_labels(image: Image) -> None:
    """Labels, user, entry point and size are those of a release."""
    config = image.description["Config"]
    labels = config["Labels"]
    for name in ("title", "description", "version", "licenses"):
        require(
            bool(labels.get(f"org.opencontainers.image.{name}")), f"no label org.opencontainers.image.{name}"
        )
    require(
        labels["org.opencontainers.image.version"] == package_version(),
        "the version label is another version",
    )
    require(config["User"].split(":")[0] not in ("", "0", "root"), "the default user is root")
    require(config["Entrypoint"][0].startswith("/"), "the entry point is not an absolute path")
    size = image.description["Size"]
    print(f"  size {size / 1e9:.2f} GB")
    require(image.target != "cpu" or size <= MAX_CPU_BYTES, f"larger than {MAX_CPU_BYTES / 1e9} GB")


def check_version(image: Image) -> None:
    """Both commands say the version of the tag, soon."""
    started = time.monotonic()
    process = image.run("--version")
    seconds = time.monotonic() - started
    require_exit(process, 0)
    require(package_version() in process.stdout, f"--version printed {process.stdout!r}")
    require(seconds < MAX_VERSION_SECONDS, f"--version took {seconds:.1f} s")
    simulate = image.run("--version", options=("--entrypoint=sicnn-simulate",))
    require_exit(simulate, 0)
    require(package_version() in simulate.stdout, f"sicnn-simulate --version printed {simulate.stdout!r}")


def check_no_build_tools(image: Image) -> None:
    """No compiler is in the image."""
    script = "for tool in cc gcc g++ clang make; do command -v $tool; done; true"
    process = image.run("-c", script, options=("--entrypoint=/bin/sh",))
    require_exit(process, 0)
    require(process.stdout == "", f"build tools in the image: {process.stdout.split()}")


def check_dry_run(image: Image) -> None:
    """A dry run says what it would do and writes nothing."""
    out = image.output_folder("dry-run")
    process = image.run("/bids", "/out", "participant", "--dry-run", bids=EXAMPLES / "abdomen", out=out)
    require_exit(process, 0)
    require("sub-01" in process.stdout, f"the dry run does not name the participant: {process.stdout!r}")
    require(not list(out.iterdir()), "the dry run wrote into the output folder")


def check_default_method(image: Image) -> None:
    """The default method, no writable place but /out: everything is written, owned by the user."""
    dataset = EXAMPLES / "abdomen"
    out = image.output_folder("default-method")
    require_exit(image.run("/bids", "/out", "participant", bids=dataset, out=out), 0)
    require_outputs(dataset, out, "body", (*RUN_FILES, "_desc-training_qc.tsv", "_desc-training_qc.json"))


def check_empty_environment(image: Image) -> None:
    """Without any environment variable, so without HOME, for a user without an account."""
    dataset = EXAMPLES / "brain"
    out = image.output_folder("empty-environment")
    program = image.description["Config"]["Entrypoint"][0]
    process = image.run(
        *("-i", program, "/bids", "/out", "participant", "--method", "lsq"),
        bids=dataset,
        out=out,
        options=("--entrypoint=/usr/bin/env",),
    )
    require_exit(process, 0)
    motion = ("_desc-motion_qc.tsv", "_desc-motion_qc.json")
    require_outputs(dataset, out, "brain", (*RUN_FILES, *motion))


def check_unknown_participant(image: Image) -> None:
    """A participant that is not there: 18."""
    out = image.output_folder("unknown-participant")
    arguments = ("/bids", "/out", "participant", "--participant-label", "nobody")
    require_exit(image.run(*arguments, bids=EXAMPLES / "abdomen", out=out), 18)


def check_not_bids(image: Image) -> None:
    """An empty folder is no BIDS dataset: 16."""
    out = image.output_folder("not-bids")
    empty = image.output_folder("empty-input")
    require_exit(image.run("/bids", "/out", "participant", bids=empty, out=out), 16)


def check_read_only_output(image: Image) -> None:
    """An output folder that cannot be written: 73."""
    out = image.output_folder("read-only-output")
    out.chmod(0o555)
    require_exit(image.run("/bids", "/out", "participant", bids=EXAMPLES / "abdomen", out=out), 73)


CHECKS: tuple[Callable[[Image], None], ...] = (
    check_labels,
    check_version,
    check_no_build_tools,
    check_dry_run,
    check_default_method,
    check_empty_environment,
    check_unknown_participant,
    check_not_bids,
    check_read_only_output,
)


def package_version() -> str:
    """Return the version the source tree states."""
    source = (ROOT / "sicnn_app" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE).group(1)


def build(name: str, target: str, options: list[str]) -> None:
    """Build the image; the engine's output is shown only when it fails."""
    command = ["docker", "build", "--target", target, "--tag", name]
    command += ["--build-arg", f"VERSION={package_version()}", *options, str(ROOT)]
    started = time.monotonic()
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if process.returncode:
        sys.exit(f"{process.stdout}\ndocker build failed ({process.returncode})")
    print(f"built {name} ({target}) in {time.monotonic() - started:.0f} s")


def main() -> int:
    """Build, run every check, print one line each; 0 when all passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--target", choices=("cpu", "cuda"), default="cpu", help="stage of the Dockerfile (cpu)"
    )
    parser.add_argument("--image", default="sicnn-app:check", help="name to build under (sicnn-app:check)")
    parser.add_argument("build_options", nargs="*", help="after --: more options of docker build")
    arguments = parser.parse_args()

    build(arguments.image, arguments.target, arguments.build_options)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="sicnn-app-container-", ignore_cleanup_errors=True) as scratch:
        # The folder itself is private by default, and the container's user is another one.
        os.chmod(scratch, 0o755)
        image = Image(arguments.image, arguments.target, Path(scratch))
        for check in CHECKS:
            started = time.monotonic()
            try:
                check(image)
                outcome = "PASSED"
            except AssertionError as error:
                failed += 1
                outcome = f"FAILED: {error}"
            print(f"{check.__name__} ({time.monotonic() - started:.1f} s) {outcome}", flush=True)
    print(f"container checks: {len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

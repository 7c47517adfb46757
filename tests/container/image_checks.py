"""What the image is: labels, size, contents, and how soon it answers."""

from __future__ import annotations

import json
import re

from image import EXAMPLES, ROOT, Image, package_version, require, require_exit, timed

MAX_CPU_BYTES = 2.2e9
MAX_VERSION_SECONDS = 5.0
MAX_DRY_RUN_SECONDS = 10.0

SBOM = "/opt/sicnn-app/sbom.cdx.json"
CUDA_RUNTIME = re.compile(r"nvidia-|cuda-|triton$")
"""Packages that a CUDA build of torch pins by itself."""

LABELS = ("title", "description", "version", "licenses", "authors", "base.name")

INSTALLED = (
    "import importlib.metadata as m, json; "
    "print(json.dumps(sorted((d.name, d.version) for d in m.distributions())))"
)


def check_labels(image: Image) -> None:
    """Labels, user, entry point and size are those of a release."""
    config = image.description["Config"]
    labels = config["Labels"]
    for name in LABELS:
        label = f"org.opencontainers.image.{name}"
        require(bool(labels.get(label)), f"no label {label}")
    require(
        labels["org.opencontainers.image.version"] == package_version(),
        "the version label is another version",
    )
    require(config["User"].split(":")[0] not in ("", "0", "root"), "the default user is root")
    require(image.program.startswith("/"), "the entry point is not an absolute path")
    size = image.description["Size"]
    require(image.target != "cpu" or size <= MAX_CPU_BYTES, f"larger than {MAX_CPU_BYTES / 1e9} GB")


def check_version(image: Image) -> None:
    """Both commands say the version of the tag, in less than 5 s."""
    process, seconds = timed(image, "--version")
    require_exit(process, 0)
    require(package_version() in process.stdout, f"--version printed {process.stdout!r}")
    require(seconds < MAX_VERSION_SECONDS, f"--version took {seconds:.1f} s")
    simulate = image.run("--version", options=("--entrypoint=sicnn-simulate",))
    require_exit(simulate, 0)
    require(package_version() in simulate.stdout, f"sicnn-simulate --version printed {simulate.stdout!r}")


def check_no_build_tools(image: Image) -> None:
    """No compiler, no pip, and no header of PyTorch is in the environment."""
    script = (
        "for tool in cc gcc g++ clang make; do command -v $tool; done; "
        "ls /opt/sicnn-app/bin | grep '^pip'; "
        "find /opt/sicnn-app -type d '(' -path '*/torch/include' -o -path '*/site-packages/*/tests' ')'"
    )
    process = image.run("-c", script, options=("--entrypoint=/bin/sh",))
    require_exit(process, 0)
    require(process.stdout == "", f"build tools or tests in the image: {process.stdout.split()}")


def check_bill_of_materials(image: Image) -> None:
    """The SBOM names exactly what is installed, in the versions of constraints.txt."""
    text = image.run(SBOM, options=("--entrypoint=cat",))
    require_exit(text, 0)
    listed = {(normal(part["name"]), part["version"]) for part in json.loads(text.stdout)["components"]}
    installed = image.run("-c", INSTALLED, options=("--entrypoint=/opt/sicnn-app/bin/python",))
    require_exit(installed, 0)
    present = {(normal(name), version) for name, version in json.loads(installed.stdout)}
    require(listed == present, f"listed or installed, not both: {sorted(listed ^ present)}")

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {normal(name): version for name, version in (line.split("==") for line in lines if "==" in line)}
    pins["sicnn-app"] = package_version()
    other = [
        f"{name} {version}"
        for name, version in sorted(present)
        if version.split("+")[0] != pins.get(name)
        and not (image.target == "cuda" and CUDA_RUNTIME.match(name))
    ]
    require(not other, f"not in the version of constraints.txt: {', '.join(other)}")


def normal(name: str) -> str:
    """The name of a package as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def check_dry_run(image: Image) -> None:
    """A dry run says in less than 10 s what it would do, and writes nothing."""
    out = image.output_folder("dry-run")
    process, seconds = timed(
        image, "/bids", "/out", "participant", "--dry-run", bids=EXAMPLES / "abdomen", out=out
    )
    require_exit(process, 0)
    require("sub-01" in process.stdout, f"the dry run does not name the participant: {process.stdout!r}")
    require(not list(out.iterdir()), "the dry run wrote into the output folder")
    require(seconds < MAX_DRY_RUN_SECONDS, f"the dry run took {seconds:.1f} s")


CHECKS = (check_labels, check_version, check_no_build_tools, check_bill_of_materials, check_dry_run)

#!/usr/bin/env python3
"""Build an image and hold it to the habits the app promises, on a real container engine.

    run_container_checks.py [--target cpu] [--image NAME] [--all] [-- OPTIONS OF docker build ...]
    run_container_checks.py --built --image NAME --only abdomen

Needs nothing but the ``docker`` command and the standard library. Every check is a real run of the
image: read-only root filesystem, no network, a user that has no account, read-only input. ``--all`` adds
the longer checks; ``--report`` writes what came out as a page. ``--write-expected`` makes the lists of
expected outputs in ``expected/`` anew: look at the difference before it is committed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import conditions
import image_checks
import longer
from checks import count_failed, name_of, page, run_checks
from image import ROOT, Image, package_version

QUICK = (*image_checks.CHECKS, *conditions.CHECKS)
LONGER = longer.CHECKS

PAGE = """\
Every line is one or more real runs of the image on a Docker engine, with `--read-only`, `--network=none`,
`--cap-drop=ALL`, a user without an account and the input mounted read-only."""


def build(name: str, target: str, options: list[str]) -> None:
    """Build the image; the engine's output is shown only when it fails."""
    command = ["docker", "build", "--target", target, "--tag", name]
    command += ["--build-arg", f"VERSION={package_version()}", *options, str(ROOT)]
    started = time.monotonic()
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if process.returncode:
        sys.exit(f"{process.stdout}\ndocker build failed ({process.returncode})")
    print(f"built {name} ({target}) in {time.monotonic() - started:.0f} s", flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    targets = ("cpu", "cuda")
    parser.add_argument("--target", choices=targets, default="cpu", help="stage of the Dockerfile (cpu)")
    parser.add_argument("--image", default="sicnn-app:check", help="name to build under (sicnn-app:check)")
    parser.add_argument("--built", action="store_true", help="the image is there already: do not build it")
    parser.add_argument("--all", action="store_true", help="also the longer checks")
    names = [name_of(check) for check in (*QUICK, *LONGER)]
    parser.add_argument("--only", nargs="+", choices=names, metavar="CHECK", help=", ".join(names))
    parser.add_argument("--write-expected", action="store_true", help="make the lists of outputs anew")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the results as Markdown")
    parser.add_argument("build_options", nargs="*", help="after --: more options of docker build")
    return parser.parse_args()


def main() -> int:
    """Build, run the checks, print one line each; 0 when all passed."""
    arguments = parse()
    if not arguments.built:
        build(arguments.image, arguments.target, arguments.build_options)
    checks = (*QUICK, *LONGER) if arguments.all or arguments.only else QUICK
    if arguments.only:
        checks = tuple(check for check in checks if name_of(check) in arguments.only)
    with tempfile.TemporaryDirectory(prefix="sicnn-app-container-", ignore_cleanup_errors=True) as scratch:
        # The folder itself is private by default, and the container's user is another one.
        Path(scratch).chmod(0o755)
        image = Image(
            arguments.image, arguments.target, Path(scratch), writes_expected=arguments.write_expected
        )
        print(f"size {image.size}", flush=True)
        results = run_checks(image, checks)
    if arguments.report:
        flags = " --all" if arguments.all else ""
        command = f"python tests/container/run_container_checks.py --target {arguments.target}{flags}"
        facts = f"target `{arguments.target}`, {image.size}"
        text = page("Checks of the container image", PAGE, command, facts, results)
        arguments.report.write_text(text, encoding="utf-8")
    return 1 if count_failed(results) else 0


if __name__ == "__main__":
    sys.exit(main())

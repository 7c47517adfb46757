"""Checks by name, as ``nox -s lint types tests docs``; each has an environment with the pinned versions."""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True


def install(session: nox.Session, extras: str) -> None:
    """Install the app, editable, with some of its extras."""
    session.install("-c", "constraints.txt", "-e", f".[{extras}]")


@nox.session
def lint(session: nox.Session) -> None:
    """Style and docstrings; changes nothing."""
    session.install("-c", "constraints.txt", "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types of the package."""
    install(session, "test")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Tests; what follows ``--`` goes to pytest."""
    install(session, "dicom,test")
    session.run("pytest", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Tests, and the lines and branches of the app that they do not reach."""
    install(session, "test,coverage")
    session.run("pytest", "--cov", "--cov-report=term-missing", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Documentation site, strict, where the checkout has one."""
    if not Path("mkdocs.yml").exists():
        session.skip("there is no mkdocs.yml")
    install(session, "docs")
    session.run("mkdocs", "build", "--strict")

"""A Slurm of one node, set up in a folder of its own and taken down again; nothing of the machine changes.

    python tests/local_slurm.py COMMAND [ARGUMENT ...]

runs a command while it is up: ``sbatch`` and the others find it by the environment. It needs Debian's
packages slurmctld, slurmd, slurm-client and munge, and root, as whom the daemon of a node works.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel")

STARTUP = 240.0
"""Seconds in which the node has to be ready."""

CONFIGURATION = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
MaxArraySize={max_array_size}
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no Slurm here; None where there can."""
    absent = [name for name in PROGRAMS if _program(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: slurmctld slurmd slurm-client munge)"
    if os.geteuid() != 0:
        return "slurmd works as root"
    return None


def version() -> str:
    """What ``slurmd -V`` says."""
    return subprocess.run(
        [_program("slurmd"), "-V"], capture_output=True, text=True, check=True
    ).stdout.strip()


@contextmanager
def local_slurm(*, cpus: int = 2, memory: int = 4096, max_array_size: int = 1001) -> Iterator[dict[str, str]]:
    """Context in which a Slurm is up.

    Parameters
    ----------
    cpus : int
        That Slurm gives to jobs, whether or not the machine has them.
    memory : int
        MB that Slurm gives to jobs.
    max_array_size : int
        One more than the highest index of an array.

    Yields
    ------
    dict of str to str
        Environment in which the commands of Slurm find it.

    Raises
    ------
    RuntimeError
        When the node is not ready in time; with the end of the logs.
    """
    # A socket's path has at most 107 letters, which a test's own folder may exceed.
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("munge", "state", "spool"):
            (folder / part).mkdir(mode=0o755)
        host = socket.gethostname().partition(".")[0]
        configuration = folder / "slurm.conf"
        configuration.write_text(
            CONFIGURATION.format(
                host=host,
                folder=folder,
                controller_port=_free_port(),
                node_port=_free_port(),
                max_array_size=max_array_size,
                cpus=cpus,
                memory=memory,
            )
        )
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH"))},
            "SLURM_CONF": str(configuration),
        }
        stack.enter_context(_munge(folder / "munge"))
        for command in (["slurmctld", "-D", "-i"], ["slurmd", "-D", "-N", host]):
            stack.enter_context(_daemon(command, folder / f"{command[0]}.out", environment))
        _wait_for_node(folder, environment)
        yield environment
        subprocess.run(["scancel", "--user=root"], env=environment, check=False, capture_output=True)


@contextmanager
def _munge(folder: Path) -> Iterator[None]:
    """The daemon by which the parts of Slurm trust one another, with a key of its own."""
    key = folder / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    options = {
        "socket": folder / "socket",
        "key-file": key,
        "log-file": folder / "log",
        "pid-file": folder / "pid",
        "seed-file": folder / "seed",
    }
    command = [
        "munged",
        "--foreground",
        "--force",
        *(f"--{name}={path}" for name, path in options.items()),
    ]
    with _daemon(command, folder / "out", dict(os.environ)):
        deadline = time.monotonic() + STARTUP
        while not options["socket"].exists():
            if time.monotonic() > deadline:
                raise RuntimeError(f"munged does not start:\n{(folder / 'out').read_text()}")
            time.sleep(0.05)
        yield


@contextmanager
def _daemon(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[None]:
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [_program(command[0]), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_node(folder: Path, environment: dict[str, str]) -> None:
    deadline = time.monotonic() + STARTUP
    while True:
        asked = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        if asked.stdout.strip() == "idle":
            return
        if time.monotonic() > deadline:
            logs = "\n".join(
                f"{path.name}:\n{path.read_text()[-2000:]}" for path in sorted(folder.glob("*.log"))
            )
            raise RuntimeError(f"the node is not ready: {asked.stdout}{asked.stderr}\n{logs}")
        time.sleep(0.2)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return tried.getsockname()[1]


if __name__ == "__main__":
    if reason := missing():
        raise SystemExit(f"no Slurm here: {reason}")
    with local_slurm() as found:
        raise SystemExit(subprocess.run(sys.argv[1:], env=found, check=False).returncode)

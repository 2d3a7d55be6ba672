"""A Slurm cluster of one node on this machine, from the programs of Debian's package `slurm-wlm`."""

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.helpers.projects import environment
from tests.helpers.servers import eventually, free_port
from tests.helpers.team.server import start

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
PATIENCE = 60  # seconds
SETTINGS = """
ClusterName=onestep
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
AuthType=auth/none
CredType=cred/none
CryptoType=crypto/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
KillWait=30
NodeName={host} NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def local_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start the cluster and yield the environment of its clients. Skip the test if Slurm is not installed."""
    path = f"{environment()['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"
    if missing := [name for name in PROGRAMS if shutil.which(name, path=path) is None]:
        pytest.skip(f"no {missing[0]}: install Slurm (Debian, Ubuntu: apt-get install slurm-wlm)")
    host = socket.gethostname().partition(".")[0]
    (folder / "state").mkdir(parents=True)
    (folder / "spool").mkdir()
    ports = {"controller": free_port(), "daemon": free_port()}
    config = folder / "slurm.conf"
    config.write_text(SETTINGS.format(host=host, user=getpass.getuser(), folder=folder, **ports))
    env = {"PATH": path, "SLURM_CONF": str(config)}
    with ExitStack() as stack:
        for name in ("slurmctld", "slurmd"):
            start(stack, [shutil.which(name, path=path) or name, "-D"], folder / f"{name}.log", folder, env)
        stack.callback(end_jobs, env)  # before the daemons end: a job is no child of theirs and would go on
        idle = eventually(lambda: "State=IDLE" in ask(env, "show", "node", host), PATIENCE)
        logs = [(folder / f"{name}.log").read_text(errors="replace")[-1500:] for name in ("slurmctld", "slurmd")]
        assert idle, "\n".join(logs)
        yield {**environment(), **env}


def end_jobs(env: dict[str, str]) -> None:
    """Kill all jobs, and wait until they have ended."""
    variables = {**environment(), **env}
    subprocess.run(["scancel", "--full", "--signal=KILL", "--user", getpass.getuser()], env=variables, check=False)
    subprocess.run(["scancel", "--user", getpass.getuser()], env=variables, check=False)

    def is_empty() -> bool:
        listed = subprocess.run(["squeue", "-h"], env=variables, capture_output=True, text=True, check=False)
        return listed.returncode == 0 and not listed.stdout.strip()

    assert eventually(is_empty, PATIENCE), "a job of Slurm does not end"


def ask(env: dict[str, str], *words: str) -> str:
    """The output of scontrol; empty if it fails."""
    return subprocess.run(
        ["scontrol", *words], env={**environment(), **env}, capture_output=True, text=True, check=False
    ).stdout

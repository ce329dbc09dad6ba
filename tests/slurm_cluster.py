"""A SLURM of two nodes on this machine, on loopback only, with character devices in the place of GPUs; needs root.

Started from Debian's packages slurm-wlm and munge; every daemon is ended by :meth:`Cluster.close`.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol", "scancel")
NODES, GPUS, CPUS = ("n1", "n2"), 2, 4


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    absent = [name for name in PROGRAMS if program(name) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "the daemons need root"


def program(name: str) -> str | None:
    """Path of a program, of daemons also where only root looks."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


class Cluster:
    """Running daemons; ``env`` is the environment of processes that use them."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="calib-slurm-"))
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.env = os.environ | {"SLURM_CONF": str(self._folder / "slurm.conf")}
        try:
            self._configure()
            self._start_all()
        except BaseException:
            self.close()
            raise

    def _configure(self) -> None:
        folder, host = self._folder, socket.gethostname().partition(".")[0]
        folder.chmod(0o755)
        for name in ("state", "log", "munge", *(f"spool.{node}" for node in NODES)):
            (folder / name).mkdir(mode=0o755)
        key = folder / "munge" / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        for k in range(GPUS * len(NODES)):
            os.mknod(folder / f"gpu{k}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        ports = free_ports(2 + len(NODES))
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} RealMemory=2000 "
            f"Gres=gpu:fake:{GPUS} State=UNKNOWN"
            for node, port in zip(NODES, ports[1:], strict=False)
        )
        (folder / "slurm.conf").write_text(
            CONF.format(d=folder, host=host, ctld=ports[0], slurmd=ports[-1], nodes=nodes, names=",".join(NODES))
        )
        (folder / "gres.conf").write_text(
            "\n".join(
                f"NodeName={node} Name=gpu Type=fake File={folder}/gpu[{k * GPUS}-{k * GPUS + GPUS - 1}]"
                for k, node in enumerate(NODES)
            )
        )

    def _start_all(self) -> None:
        folder, m = self._folder, self._folder / "munge"
        self._start(
            "munged", "--force", "--foreground", f"--key-file={m}/munge.key", f"--socket={m}/munge.sock",
            f"--pid-file={m}/munged.pid", f"--log-file={m}/munged.log", f"--seed-file={m}/munged.seed",
        )  # fmt: skip
        wait_for((m / "munge.sock").exists, 10.0, "munged")
        self._start("slurmctld", "-D", "-f", str(folder / "slurm.conf"))
        for node in NODES:
            self.start_node(node)
        wait_for(
            lambda: self.call("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == str(len(NODES)), 30.0, "idle nodes"
        )

    def _start(self, name: str, *arguments: str, key: str = "") -> None:
        path = program(name)
        assert path is not None
        with (self._folder / "log" / f"{key or name}.out").open("ab") as out:
            self._daemons[key or name] = subprocess.Popen(
                [path, *arguments], stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=self.env, start_new_session=True
            )  # fmt: skip

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self._start("slurmd", "-D", "-f", str(self._folder / "slurm.conf"), "-N", node, key=node)

    def call(self, *command: str) -> str:
        """What a command prints; an error if it fails."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stderr}")
        return done.stdout

    def kill_node(self, node: str) -> None:
        """The node dies: its daemon, those of its steps and all that they started are killed, the daemons first."""
        daemon = self._daemons.pop(node)
        daemon.kill()
        daemon.wait()
        self._kill_steps(node)

    def _kill_steps(self, node: str) -> None:
        tasks = self._tasks(node)
        daemons = {parent for _, parent in tasks if _command(parent).startswith("slurmstepd")}
        for pid in (*daemons, *(pid for pid, _ in tasks)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _tasks(self, node: str) -> list[tuple[int, int]]:
        """Processes of a node, which SLURM names in their environment, with their parents."""
        ours = {f"SLURM_CONF={self._folder}/slurm.conf".encode(), f"SLURMD_NODENAME={node}".encode()}
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, IndexError):
                if entry.name.isdigit() and ours <= set((entry / "environ").read_bytes().split(b"\0")):
                    parent = re.findall(r"^PPid:\s*(\d+)", (entry / "status").read_text(), re.MULTILINE)[0]
                    found.append((int(entry.name), int(parent)))
        return found

    def logs(self) -> str:
        """The ends of the logs of all daemons."""
        return "\n".join(
            f"== {p.name}\n{p.read_text(errors='replace')[-3000:]}" for p in (self._folder / "log").iterdir()
        )

    def close(self) -> None:
        """End everything that was started, and remove the folder."""
        with contextlib.suppress(Exception):
            subprocess.run(["scancel", "--full", "-s", "KILL", "-u", "root"], env=self.env, timeout=10, check=False)
            time.sleep(1.0)
        for node in NODES:
            self._kill_steps(node)
        for daemon in reversed(list(self._daemons.values())):
            daemon.terminate()
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def free_ports(n: int) -> list[int]:
    """Ports of the loopback that nobody uses now."""
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until a condition holds; an error if it does not in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(RuntimeError):
            if condition():
                return
        time.sleep(0.1)
    raise TimeoutError(f"{what}: not within {seconds:g} s")


CONF = """\
ClusterName=ci
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={d}/munge/munge.sock
SlurmctldPort={ctld}
SlurmdPort={slurmd}
StateSaveLocation={d}/state
SlurmdSpoolDir={d}/spool.%n
SlurmctldPidFile={d}/slurmctld.pid
SlurmdPidFile={d}/slurmd.%n.pid
SlurmctldLogFile={d}/log/slurmctld.log
SlurmdLogFile={d}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=requeue_delay=1,batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MinJobAge=3600
KillWait=12
SlurmdTimeout=10
GresTypes=gpu
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=gpu Nodes={names} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=12
PartitionName=urgent Nodes={names} MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
"""

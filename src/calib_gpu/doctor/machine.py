"""Cores and memory, and the limits that a container or a batch job sets on them."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Final

from calib_gpu.doctor import Finding
from calib_gpu.settings import MIB, knobs
from calib_gpu.workers import usable_cores

GIB: Final = 1024 * MIB
CGROUP: Final = Path("/sys/fs/cgroup")
NO_LIMIT: Final = 1 << 60
"""Version 1 of control groups writes a number of this size where there is no limit."""


def machine() -> list[Finding]:
    """Cores, memory and open files."""
    return [_cores(), *_cpu_quota(cgroup_cpus(), usable_cores()), _open_files(), *_memory()]


def _cores() -> Finding:
    cores, usable = os.cpu_count() or 1, usable_cores()
    return Finding("processor", "cores", f"{usable} of {cores} may be used: the default of --workers")


def _cpu_quota(quota: float | None, usable: int) -> list[Finding]:
    """A quota is time, not cores: with more threads than it allows all of them are held up together."""
    if quota is None:
        return [Finding("processor", "quota", "none")]
    if quota >= usable:
        return [Finding("processor", "quota", f"{quota:g} cores")]
    workers = max(1, int(quota))
    cost = f"{usable} workers would be throttled: use --workers {workers}"
    return [Finding("processor", "quota", f"{quota:g} cores (control group)", "slow", cost)]


def cgroup_cpus(top: Path = CGROUP) -> float | None:
    """Cores that the control group allows, as time per time; None without a limit."""
    for folder in _own_groups(top):
        words = _read(folder / "cpu.max").split()  # version 2: "quota period" or "max period"
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit():
            return int(words[0]) / int(words[1])
    quota, period = (_read(top / "cpu" / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))  # version 1
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def cgroup_memory(top: Path = CGROUP) -> int | None:
    """Bytes that the control group allows; None without a limit."""
    files = [*(folder / "memory.max" for folder in _own_groups(top)), top / "memory" / "memory.limit_in_bytes"]
    limits = [int(text) for file in files if (text := _read(file).strip()).isdigit() and int(text) < NO_LIMIT]
    return min(limits, default=None)


def _own_groups(top: Path) -> list[Path]:
    """The control group of this process and those above it (version 2)."""
    own = next((line[3:].strip() for line in _read(Path("/proc/self/cgroup")).splitlines() if line[:3] == "0::"), "/")
    folder, found = top / own.lstrip("/"), [top]
    while folder != top and top in folder.parents and ".." not in folder.parts:
        found.insert(0, folder)
        folder = folder.parent
    return list(dict.fromkeys(found))


def _memory() -> list[Finding]:
    fields = dict(line.split(":", 1) for line in _read(Path("/proc/meminfo")).splitlines() if ":" in line)
    total, free = (int(fields.get(name, "0 kB").split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    default = int(str(knobs()["memory"].default))
    found = [Finding("memory", "RAM", f"{free / GIB:.1f} of {total / GIB:.1f} GiB free")]
    limit = cgroup_memory()
    if limit is not None:
        found.append(Finding("memory", "limit", f"{limit / GIB:.2f} GiB (control group)"))
    least = min([size for size in (free, limit) if size], default=0)
    if least and least < 3 * default:
        cost = f"a run takes some 100 MB more than --memory ({default // MIB} MiB): use --memory {least // (3 * MIB)}M"
        found.append(Finding("memory", "for a run", f"{least // MIB} MiB", "slow", cost))
    return found


def _open_files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 64 + 4 * usable_cores()  # three shards and one chunk a worker, and some spare
    if soft != resource.RLIM_INFINITY and soft < needed:
        return Finding("processor", "open files", str(soft), "slow", f"too few for all workers: ulimit -n {2 * needed}")
    return Finding("processor", "open files", "no limit" if soft == resource.RLIM_INFINITY else f"up to {soft}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

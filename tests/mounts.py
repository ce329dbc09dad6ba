"""Small file systems of their own, for tests of full and read-only disks; skipped where they cannot be mounted."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def _mount(*options: str) -> str:
    """Empty if it went well, else why it did not."""
    if shutil.which("mount") is None:
        return "there is no mount command"
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip() or "mount failed"


@contextlib.contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """A file system in memory of so many bytes, mounted on a new folder."""
    folder.mkdir()
    if reason := _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)):
        pytest.skip(f"a tmpfs cannot be mounted here: {reason}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Change the options of a mounted file system: its size, or ``ro`` and ``rw``."""
    if reason := _mount("-o", f"remount,{options}", str(folder)):
        pytest.skip(f"it cannot be remounted: {reason}")

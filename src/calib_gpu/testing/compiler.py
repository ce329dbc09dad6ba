"""C and C++ compiled once: what was built is kept under the hash of source, compiler and options."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from calib_gpu.errors import CalibError

_LANGUAGES = {"c": ("CC", "gcc", ".c"), "c++": ("CXX", "g++", ".cpp")}


class CompilerError(CalibError):
    """The host compiler is absent, or does not compile a source."""


def cache_folder() -> Path:
    """Where built kernels are kept: CALIB_GPU_KERNEL_CACHE, or the user's cache folder."""
    given = os.environ.get("CALIB_GPU_KERNEL_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "calib-gpu" / "kernels"


@cache
def compiler(language: str) -> str:
    """The path of the compiler of "c" or "c++"; CompilerError where there is none."""
    variable, usual, _ = _LANGUAGES[language]
    found = shutil.which(os.environ.get(variable, usual))
    if found is None:
        raise CompilerError(f"no compiler of {language}", value=os.environ.get(variable, usual), fix=f"install {usual}")
    return found


@cache
def _version(path: str) -> str:
    return subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout


def build(source: str, language: str, options: Sequence[str], name: str, libraries: Sequence[str] = ()) -> Path:
    """The file that a compiler makes of a source.

    Parameters
    ----------
    source
        Text; what it includes beyond headers of the system would be missed by the cache.
    language
        "c" or "c++".
    options, libraries
        Of the compiler; libraries come last.
    name
        What it is called in errors.

    Raises
    ------
    CompilerError
        There is no compiler, or it does not compile the source.
    """
    path = compiler(language)
    key = hashlib.sha256("\0".join((source, _version(path), *options, *libraries)).encode()).hexdigest()[:32]
    folder = cache_folder()
    built = folder / key
    if built.exists():
        return built
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        text, made = Path(work) / f"source{_LANGUAGES[language][2]}", Path(work) / "built"
        text.write_text(source, encoding="utf-8")
        command = [path, *options, str(text), "-o", str(made), *libraries]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CompilerError(f"the {language} of a kernel does not compile", array=name, value=done.stderr[:3000])
        os.replace(made, built)
    return built

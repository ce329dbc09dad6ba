"""CUDA C++ to PTX and cubin with NVRTC, which needs neither a GPU nor a driver.

The library is the one of the wheels ``nvidia-cuda-nvrtc`` (CUDA 13: sm_75 and newer) or ``nvidia-cuda-nvrtc-cu12`` (older ones
too), or of an installed CUDA toolkit. The options are those of CuPy 14, with ``--fmad=false``.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from calib_gpu.errors import CalibError

BASE_OPTIONS = ("--std=c++17", "--fmad=false", "-ftz=true", "--device-as-default-execution-space")
_WHEELS = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu13", "nvidia-cuda-nvrtc-cu12")
_HEADER_WHEELS = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12")


class NvrtcError(CalibError):
    """NVRTC is absent, does not know an architecture, or a source does not compile."""


@dataclass(frozen=True)
class Compiled:
    """What NVRTC made of a source.

    Parameters
    ----------
    kind
        "ptx" or "cubin".
    arch
        Compute capability without the dot, as "80".
    code
        PTX text or an ELF image.
    log
        Messages of the compiler, with those of ptxas for a cubin.
    names
        Mangled names of the name expressions that were asked for.
    """

    kind: str
    arch: str
    code: bytes
    log: str
    names: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """PTX as text."""
        return self.code.decode()


class Nvrtc:
    """One NVRTC library.

    Parameters
    ----------
    path
        Of the shared library.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)
        number = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(number))
        archs = (ctypes.c_int * number.value)()
        self._call("nvrtcGetSupportedArchs", archs)
        self.archs = frozenset(str(arch) for arch in archs)

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise NvrtcError(f"{name} failed: {self._library.nvrtcGetErrorString(code).decode()}", value=str(self.path))

    def _fetch(self, name: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"{name}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(max(size.value, 1))
        self._call(name, program, buffer)
        return buffer.raw[: size.value]

    def compile(
        self,
        source: str,
        arch: str,
        kind: str,
        options: Sequence[str],
        headers: Mapping[str, str],
        names: Sequence[str],
    ) -> Compiled:
        """Compile one source; the parameters are those of `compile_raw`."""
        program = ctypes.c_void_p()
        texts = (ctypes.c_char_p * len(headers))(*(text.encode() for text in headers.values()))
        titles = (ctypes.c_char_p * len(headers))(*(name.encode() for name in headers))
        count = ctypes.c_int(len(headers))
        self._call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"kernel.cu", count, texts, titles)
        try:
            for name in names:
                self._call("nvrtcAddNameExpression", program, name.encode())
            target = (f"-arch=compute_{arch}",) if kind == "ptx" else (f"-arch=sm_{arch}", "--ptxas-options=-v")
            given = [option.encode() for option in (*options, *target)]
            code = self._library.nvrtcCompileProgram(
                program, ctypes.c_int(len(given)), (ctypes.c_char_p * len(given))(*given)
            )
            log = self._fetch("nvrtcGetProgramLog", program).decode(errors="replace").rstrip("\0\n")
            if code:
                rule = " ".join(options)
                raise NvrtcError("a source does not compile", array=f"sm_{arch}", value=log or "no message", rule=rule)
            made = self._fetch("nvrtcGetPTX" if kind == "ptx" else "nvrtcGetCUBIN", program)
            lowered = {name: self._lowered(program, name) for name in names}
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))
        return Compiled(kind, arch, made.rstrip(b"\0") if kind == "ptx" else made, log, lowered)

    def _lowered(self, program: ctypes.c_void_p, name: str) -> str:
        text = ctypes.c_char_p()
        self._call("nvrtcGetLoweredName", program, name.encode(), ctypes.byref(text))
        return (text.value or b"").decode()


def compile_raw(
    source: str,
    arch: str | int,
    kind: Literal["ptx", "cubin"] = "ptx",
    options: Sequence[str] = (),
    *,
    headers: Mapping[str, str] | None = None,
    names: Sequence[str] = (),
) -> Compiled:
    """Compile CUDA C++.

    Parameters
    ----------
    source
        CUDA C++.
    arch
        Compute capability without the dot: 80, "sm_80", "90".
    kind
        PTX for `PtxKernel`, or a cubin, whose log tells registers and spills.
    options
        Further options; BASE_OPTIONS are always given before them.
    headers
        Texts that the source includes, by name.
    names
        Name expressions whose mangled names are wanted, as "kernel<float, 2>".

    Returns
    -------
    Compiled
        Code, log and mangled names.

    Raises
    ------
    NvrtcError
        NVRTC is absent, or knows no such architecture, or the source does not compile.
    """
    number = str(arch).removeprefix("sm_").removeprefix("compute_")
    given = tuple(dict.fromkeys((*BASE_OPTIONS, *options)))
    return library_for(number).compile(source, number, kind, given, headers or {}, names)


@cache
def libraries() -> tuple[Nvrtc, ...]:
    """All NVRTC libraries that are installed, those of wheels first; empty where there is none."""
    found: dict[Path, Nvrtc] = {}
    for path in _candidates():
        if path not in found:
            try:
                found[path] = Nvrtc(path)
            except OSError:  # a library that cannot be loaded here is as good as none
                continue
    return tuple(found.values())


def _candidates() -> Iterator[Path]:
    yield from wheel_files(_WHEELS, "libnvrtc.so")
    system = ctypes.util.find_library("nvrtc")
    if system:
        yield Path(system)


def wheel_files(wheels: Sequence[str], prefix: str) -> Iterator[Path]:
    """The installed files of wheels whose name begins so."""
    for wheel in wheels:
        try:
            files = importlib.metadata.files(wheel) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        yield from (Path(str(file.locate())) for file in files if file.name.startswith(prefix))


def library_for(arch: str) -> Nvrtc:
    """The first library that compiles for an architecture."""
    number = arch.rstrip("af")
    for library in libraries():
        if number in library.archs:
            return library
    fix = "pip install nvidia-cuda-nvrtc (sm_75 and newer) or nvidia-cuda-nvrtc-cu12 (sm_50 to sm_121)"
    known = (
        "; ".join(f"{lib.path}: {', '.join(sorted(lib.archs, key=int))}" for lib in libraries())
        or "no NVRTC is installed"
    )
    raise NvrtcError("no NVRTC compiles for this architecture", array=f"sm_{arch}", value=known, fix=fix)


def cuda_include() -> tuple[str, ...]:
    """The option that names the CUDA headers of the wheel nvidia-cuda-runtime; empty where it is absent."""
    for header in wheel_files(_HEADER_WHEELS, "cuda_runtime.h"):
        return (f"-I{header.parent}",)
    return ()

"""Device functions compiled by g++ and run under the address and the undefined-behaviour sanitizer.

The headers of ``kernels/`` are plain C++ where ``__CUDACC__`` is not defined. A test writes the body of ``main``; arrays go in
and come out through files, each in memory of exactly its size, so that an access beside it is found.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import CalibError
from calib_gpu.testing.compiler import build

SANITIZERS = (
    "-fsanitize=address,undefined,float-cast-overflow",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
)
_OPTIONS = ("-std=c++17", "-O1", "-g", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
_TYPES = {
    "f4": "float", "f8": "double", "i1": "signed char", "u1": "unsigned char", "i2": "short", "u2": "unsigned short",
    "i4": "int", "u4": "unsigned int", "i8": "long long", "u8": "unsigned long long", "b1": "bool",
}  # fmt: skip
_HELPERS = """
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
template <typename T> static std::unique_ptr<T[]> test_read(const std::string &path, std::size_t count) {
  std::unique_ptr<T[]> values(new T[count]);
  std::FILE *file = std::fopen(path.c_str(), "rb");
  if (!file || std::fread(values.get(), sizeof(T), count, file) != count) std::exit(90);
  std::fclose(file);
  return values;
}
template <typename T> static void test_write(const std::string &path, const T *values, std::size_t count) {
  std::FILE *file = std::fopen(path.c_str(), "wb");
  if (!file || std::fwrite(values, sizeof(T), count, file) != count || std::fclose(file)) std::exit(91);
}
"""


class SanitizerError(CalibError):
    """A program of device functions was stopped; ``value`` is the report of the sanitizer."""


def run(
    source: str,
    body: str,
    arrays: Mapping[str, NDArray[Any]],
    results: Mapping[str, NDArray[Any]],
    *,
    options: Sequence[str] = SANITIZERS,
) -> None:
    """Run a piece of C++ on arrays.

    Parameters
    ----------
    source
        Headers of device functions as text, includes written out.
    body
        Statements; each array and result is a pointer to C order of its name, `n_NAME` its number of elements.
    arrays
        Inputs by name; the pointers are to const.
    results
        Arrays that the body changes, which are changed in place here.
    options
        Further options of the compiler.

    Raises
    ------
    CompilerError
        g++ is absent or does not compile it; warnings are errors.
    SanitizerError
        A sanitizer stopped the program, or it ended otherwise than it should; the results are as they were.
    """
    program = build(_program(source, body, arrays, results), "c++", (*_OPTIONS, *options), "device functions")
    everything = {**arrays, **results}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        for name, array in everything.items():
            (folder / name).write_bytes(np.ascontiguousarray(array).tobytes())
        settings = os.environ | {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
        command = [str(program), work, *(str(array.size) for array in everything.values())]
        done = subprocess.run(command, capture_output=True, text=True, env=settings, check=False)
        if done.returncode:
            raise SanitizerError(
                f"a program of device functions ended with {done.returncode}", value=done.stderr[:4000]
            )
        for name, array in results.items():
            array[...] = np.fromfile(folder / name, dtype=array.dtype).reshape(array.shape)


def _program(source: str, body: str, arrays: Mapping[str, NDArray[Any]], results: Mapping[str, NDArray[Any]]) -> str:
    """The text depends on names and types alone, so that arrays of any size use one built program."""
    lines = [source, _HELPERS, "int main(int, char **arguments) {", "  const std::string folder = arguments[1];"]
    for number, (name, array) in enumerate({**arrays, **results}.items(), start=2):
        kind, const = _TYPES[array.dtype.str[1:]], "const " if name in arrays else ""
        lines += [
            f"  const std::size_t n_{name} = std::strtoull(arguments[{number}], nullptr, 10);",
            f'  const auto {name}_held = test_read<{kind}>(folder + "/{name}", n_{name});',
            f"  {const}{kind} *const {name} = {name}_held.get(); (void){name};",
        ]
    lines.append(body)
    lines += [f'  test_write(folder + "/{name}", {name}, n_{name});' for name in results]
    return "\n".join([*lines, "  return 0;", "}", ""])

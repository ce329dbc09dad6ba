"""The help: quick, with an example for every command that can be run as it stands; completion for the shell."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
import typer

from calib_gpu import cli

cli.register([])
TOP = typer.main.get_command(cli.app)
CALL = "from calib_gpu.cli import main; main()"
HEAVY = ("numpy", "zarr", "numcodecs", "xarray", "astropy", "pandas")


def leaves(command: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """All commands that do something, with the words that call them."""
    inner = getattr(command, "commands", None)
    if inner is None:
        return [(path, command)]
    return [leaf for name, sub in inner.items() for leaf in leaves(sub, (*path, name))]


def run(code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=os.environ | env, check=False
    )


@pytest.mark.parametrize(("words", "command"), leaves(TOP), ids=lambda v: " ".join(v) if isinstance(v, tuple) else "")
def test_every_command_has_an_example_that_parses(words: tuple[str, ...], command: Any) -> None:
    examples = re.findall(r"`(calib-gpu [^`]+)`", (command.help or "").partition("Example")[2])
    assert examples, f"calib-gpu {' '.join(words)} has no example"
    for example in examples:
        arguments = shlex.split(example)[1:]
        assert tuple(arguments[: len(words)]) == words
        command.make_context("calib-gpu", arguments[len(words) :])


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"], []], ids=" ".join)
def test_nothing_heavy_is_imported_for_help(arguments: list[str]) -> None:
    """0.16 s on the machine where this was written, of which NumPy alone would be 0.12 s."""
    code = (
        "import sys\nfrom calib_gpu.cli import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
        "    print('MODULES', *sys.modules)"
    )
    done = run(code, *arguments)
    modules = set(done.stdout.rpartition("MODULES ")[2].split())
    assert "calib_gpu.cli.run" in modules
    assert modules.isdisjoint(HEAVY)


def test_only_the_module_of_the_command_is_imported() -> None:
    done = run("import sys\nfrom calib_gpu import cli\ncli.register(['check'])\nprint(*sys.modules)")
    own = {name.rpartition(".")[2] for name in done.stdout.split() if name.startswith("calib_gpu.cli.")}
    assert own == {"common", "check"}


def test_every_command_is_in_the_help() -> None:
    shown = run(CALL, "--help").stdout
    for name in cli.COMMANDS:
        assert re.search(rf"[│ ]{name} ", shown), name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_offered(shell: str) -> None:
    done = run(CALL, "--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert done.returncode == 0, done.stderr
    assert "_CALIB_GPU_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("calib-gpu ", set(cli.COMMANDS)),
        ("calib-gpu in", {"inspect", "ingest"}),
        ("calib-gpu run --pw", {"--pwv", "--pwv-scope"}),
    ],
)
def test_the_shell_completes(line: str, expected: set[str]) -> None:
    word = str(len(line.split()) - (0 if line.endswith(" ") else 1))
    done = run(CALL, _CALIB_GPU_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=word)
    assert set(done.stdout.split()) == expected

"""The command line: one file a command. Options become Settings; no logic lives here."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import Final

from calib_gpu.cli.common import Done, app
from calib_gpu.errors import CalibError, Exit
from calib_gpu.observe.logs import told_as_json, warnings_to_stderr

__all__ = ["app", "main"]

log = logging.getLogger("calib_gpu")

COMMANDS: Final = (
    "demo",
    "simulate",
    "ingest",
    "atm",
    "profiles",
    "plan",
    "run",
    "watch",
    "submit",
    "status",
    "inspect",
    "explain",
    "report",
    "plot",
    "check",
    "export",
    "bench",
    "doctor",
    "selftest",
)
"""The commands in the order of the help; each has a module of its name that registers it."""


def register(arguments: list[str]) -> None:
    """Import the module of the command that is called; of all where none is (help, completion, a misspelt name)."""
    called = arguments[:1] if arguments and arguments[0] in COMMANDS else COMMANDS
    for command in called:
        import_module(f"calib_gpu.cli.{command}")  # each registers itself


def main(arguments: list[str] | None = None) -> None:
    """Run ``calib-gpu`` and leave with its exit code (see :class:`calib_gpu.errors.Exit`)."""
    register(sys.argv[1:] if arguments is None else arguments)
    warnings_to_stderr()
    try:
        app(args=arguments, prog_name="calib-gpu")
    except Done as done:
        sys.exit(int(done.code))
    except CalibError as error:
        if told_as_json():
            log.error("%s", error, extra={"data": {"error": error.kind}})
        else:
            print(f"calib-gpu: error: {error}", file=sys.stderr)
        sys.exit(int(error.exit_code))
    except SystemExit as leaving:
        # the command-line library leaves with 2 for wrong usage; here 2 means that some scans failed
        sys.exit(int(Exit.USAGE) if leaving.code == 2 else leaving.code)

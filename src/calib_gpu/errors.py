"""Every error the engine raises on purpose, and the exit code that each leads to.

::

    CalibError
    ├── ConfigError          64  a setting or option breaks its rule (inside a scan: that scan fails)
    ├── StoreUnusable        65  the store cannot be opened
    ├── OutputError          73  the output cannot be written
    ├── Stopped              75  stopped by a signal; run again
    ├── DeviceLost           75  the GPU reports an error; run again
    ├── OutOfDeviceMemory        tiles and kernels ask for less then
    └── ScanFailure              one scan cannot be calibrated; the others go on (exit 1 or 2)
        ├── NoLoads              no complete HOT/COLD set serves the scan
        ├── NoValidLoads         the loads leave no good channel in any pixel
        ├── NoReference          no OFF subscan with valid data
        ├── UnknownMode          no subscan has a known class
        ├── UnsupportedMode      a chopped or otherwise unsupported observing mode
        ├── BadElevation         elevation missing or below 5 deg
        ├── AtmRange             frequency outside every opacity table
        ├── FrequencyMismatch    the frequency axis is not one axis
        ├── MissingValue         a required array or value is absent
        ├── BadShape             an array has the wrong rank or length
        ├── BadType              an array has a type that cannot be read
        ├── Unreadable           a chunk or a metadata document is missing, cut or corrupt
        │   └── ReadFailed       the disk or the network gave an error; it may be read the next time
        └── OutOfMemory          the scan needs more memory than there is
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of ``calib-gpu``; 64 to 75 are those of sysexits.h."""

    ALL = 0
    NONE = 1
    SOME = 2
    USAGE = 64
    UNUSABLE_INPUT = 65
    CANNOT_WRITE = 73
    STOPPED = 75


class CalibError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    what
        What is wrong, in a few words.
    array
        Array, attribute or setting at fault, where there is one.
    value
        The offending value.
    rule
        The rule that it breaks.
    fix
        What the user can do.
    """

    exit_code: Exit = Exit.NONE

    def __init__(self, what: str, *, array: str = "", value: object = None, rule: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.array, self.value, self.rule, self.fix = what, array, value, rule, fix
        self.scan = ""

    def at(self, scan: str) -> CalibError:
        """Name the scan in which it happened, unless it is named already; returns itself."""
        self.scan = self.scan or scan
        return self

    @property
    def kind(self) -> str:
        """The name under which ``failures.json`` lists it."""
        return type(self).__name__

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.scan, self.array) if part)
        text = f"{where}: {self.what}" if where else self.what
        if self.value is not None:
            text += f" (value: {self.value})"
        if self.rule:
            text += f"; rule: {self.rule}"
        if self.fix:
            text += f"; {self.fix}"
        return text


class ConfigError(CalibError, ValueError):
    """A setting, option or telescope parameter breaks its rule."""

    exit_code = Exit.USAGE


class StoreUnusable(CalibError, OSError):
    """A store cannot be opened, or is not what it should be."""

    exit_code = Exit.UNUSABLE_INPUT


class OutputError(CalibError, OSError):
    """The output cannot be written."""

    exit_code = Exit.CANNOT_WRITE


class Stopped(CalibError):
    """The run was stopped by a signal; a rerun goes on where it stopped."""

    exit_code = Exit.STOPPED


class DeviceLost(CalibError, RuntimeError):
    """The GPU reports an error: this process can use it no more. Nothing of the scan is published; run again."""

    exit_code = Exit.STOPPED


class OutOfDeviceMemory(CalibError, MemoryError):
    """A block does not fit the memory of the GPU, or of page-locked host memory."""


class ScanFailure(CalibError):
    """One scan cannot be calibrated; the others go on."""


class NoLoads(ScanFailure):
    """No complete set of HOT and COLD serves the scan."""


class NoValidLoads(ScanFailure):
    """The loads leave no good channel in any pixel."""


class NoReference(ScanFailure):
    """No OFF subscan with a valid dump."""


class UnknownMode(ScanFailure):
    """No subscan has a known class."""


class UnsupportedMode(ScanFailure):
    """A known observing mode that this version does not calibrate."""


class BadElevation(ScanFailure, ValueError):
    """Elevation missing, or within 5 deg of the horizon."""


class AtmRange(ScanFailure, ValueError):
    """Frequency outside the opacity table."""


class FrequencyMismatch(ScanFailure, ValueError):
    """The frequency axes are not one consistent pair."""


class MissingValue(ScanFailure, LookupError):
    """A required array, attribute or value is absent."""


class BadShape(ScanFailure, ValueError):
    """An array has the wrong rank or length."""


class BadType(ScanFailure, TypeError):
    """An array has a type that cannot be read as what it should be."""


class Unreadable(ScanFailure, OSError):
    """A chunk or a metadata document is missing, cut short or corrupt."""


class ReadFailed(Unreadable):
    """The disk or the network gave an error while a file was read; it may be read the next time."""


class OutOfMemory(ScanFailure, MemoryError):
    """The scan needs more memory than there is, often because its shape is not what it should be."""

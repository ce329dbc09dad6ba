"""The six stages of a scan: load, resolve, atmosphere, prepare, calibrate, write."""

STAGES = ("load", "resolve", "atmosphere", "prepare", "calibrate", "write")
TIMING_NAMES = {"atmosphere": "atm"}
"""Stages whose name in the timing line differs (``atm_ms``)."""

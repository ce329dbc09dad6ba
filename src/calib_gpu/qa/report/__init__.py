"""The QA report: one HTML page for a store of L1, made without a clock, so that the same L1 gives the same bytes."""

from calib_gpu.qa.report.page import write_report

__all__ = ["write_report"]

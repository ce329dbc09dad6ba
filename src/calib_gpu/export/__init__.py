"""L1 in the formats of other tools, one file each."""

from calib_gpu.export.sdfits import SdfitsOptions, export_sdfits

__all__ = ["SdfitsOptions", "export_sdfits"]

"""PTX run on the CPU: device code is tested where there is no GPU.

PTX is translated to C, instruction by instruction, and compiled without contraction. With ``--fmad=false`` NVRTC emits for
float64 operations of IEEE 754 alone, so that results are those of the device, bit for bit; ``PtxKernel.approximate`` names
the exceptions. Ordering of streams, races between blocks and the speed are not modelled.
"""

from calib_gpu.testing.ptx.errors import KernelFault, PtxError, UnknownInstruction
from calib_gpu.testing.ptx.kernel import PtxKernel
from calib_gpu.testing.ptx.layout import Struct, carray, indexer

__all__ = ["KernelFault", "PtxError", "PtxKernel", "Struct", "UnknownInstruction", "carray", "indexer"]

"""Doubles of device and disk, and tools that prove the kernels without a GPU; nothing of the engine imports them."""

"""Tools that prove the kernels on machines without a GPU; nothing of the engine imports them."""

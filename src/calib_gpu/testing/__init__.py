"""For tests: doubles, hostile stores, and tools that prove the kernels without a GPU; of the engine only selftest uses it."""

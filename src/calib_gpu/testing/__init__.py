"""For tests: doubles of device and disk, hostile stores, proofs of the kernels; of the engine only selftest uses it."""

"""Pallas kernels of the block-sparse product, behind ``block_sparse_matmul(..., form=...)``."""

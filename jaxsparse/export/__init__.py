"""Sparse models in other hands: safetensors, sparse arrays of JAX and SciPy, PyTorch's layout."""

from jaxsparse.export.bitmask import pack_mask, unpack_mask
from jaxsparse.export.layouts import to_torch_layout
from jaxsparse.export.matrices import from_sparse, to_bcoo, to_bcsr, to_scipy
from jaxsparse.export.safetensors_files import load_safetensors, save_safetensors

__all__ = [
    "from_sparse",
    "load_safetensors",
    "pack_mask",
    "save_safetensors",
    "to_bcoo",
    "to_bcsr",
    "to_scipy",
    "to_torch_layout",
    "unpack_mask",
]

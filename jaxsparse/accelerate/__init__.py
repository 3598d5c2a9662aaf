"""Sparsity that is really faster and really smaller.

Packed parameters hold kept values alone; products multiply kept blocks alone. The masks, methods
and accounting are those of everything else.
"""

from jaxsparse.accelerate.block_sparse import block_sparse_matmul
from jaxsparse.accelerate.fan_in import condensed_matmul
from jaxsparse.accelerate.inference import CompiledInference, compile_inference
from jaxsparse.accelerate.initial import block_sparse_kernel
from jaxsparse.accelerate.packing import (
    bytes_of,
    complete,
    masks_of_topology,
    no_topology,
    pack,
    pack_like,
    unpack,
)
from jaxsparse.accelerate.products import matmul, pointwise_conv
from jaxsparse.accelerate.topology import Topology
from jaxsparse.accelerate.training import (
    PackedOptimizer,
    PackedState,
    packed_optimizer,
    train_step,
)

__all__ = [
    "CompiledInference",
    "PackedOptimizer",
    "PackedState",
    "Topology",
    "block_sparse_kernel",
    "block_sparse_matmul",
    "bytes_of",
    "compile_inference",
    "complete",
    "condensed_matmul",
    "masks_of_topology",
    "matmul",
    "no_topology",
    "pack",
    "pack_like",
    "packed_optimizer",
    "pointwise_conv",
    "train_step",
    "unpack",
]

"""Memory, bytes and time of an update, by arithmetic: what the compiled programs are held against.

Nothing here is measured. Times are bytes over bandwidths, and a latency for each exchange.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax

import jaxsparse

from .transformer import Decoder, bytes_per_device, placed

# Probes, and the extremes inside the bracket: numbers of a matrix in each pass.
_COUNTS, _EXTREMES = 5, 2
# A sort of 32-bit keys with 32-bit indices by four digits of 8 bits: each digit reads and writes
# both, and the histograms are one more read of the keys.
_SORT_BYTES = 4 * 16 + 4


@dataclasses.dataclass(frozen=True)
class Machine:
    """Assumptions. Default: H100 SXM in hosts of eight."""

    memory_gb_s: float = 3350.0
    """Memory bandwidth of a device, GB/s (NVIDIA's H100 SXM data sheet: 3.35 TB/s)."""
    inside_gb_s: float = 450.0
    """A device's link in its host, GB/s a direction (data sheet: NVLink, 900 GB/s for both)."""
    between_gb_s: float = 50.0
    """A device's link to other hosts, GB/s (one 400 Gb/s adapter a device, as in a DGX H100)."""
    host_devices: int = 8
    """Devices in a host."""
    latency_us: float = 20.0
    """Of one exchange inside a host, microseconds (assumed)."""
    hop_us: float = 5.0
    """Added to it for each doubling of hosts, there and back, microseconds (assumed)."""

    def link(self, devices: int) -> float:
        """Bytes a second of a ring: its slowest link's.

        Args:
          devices: In the ring.

        Returns:
          Bytes a second.
        """
        return 1e9 * (self.inside_gb_s if devices <= self.host_devices else self.between_gb_s)

    def latency(self, devices: int) -> float:
        """Seconds until an exchange of a few numbers is over.

        Args:
          devices: That take part.

        Returns:
          Seconds.
        """
        hosts = -(-devices // self.host_devices)
        return 1e-6 * (self.latency_us + 2 * self.hop_us * math.ceil(math.log2(hosts)))


class Memory(NamedTuple):
    """Bytes on one device.

    Attributes:
      params: Weights.
      optimizer: All of the optimizer's state but the masks.
      masks: One byte a sparse weight.
      gradients: Like the weights.
      temporaries: Of an update.
    """

    params: int
    optimizer: int
    masks: int
    gradients: int
    temporaries: int


class Sizes(NamedTuple):
    """What formulas read of a model.

    Attributes:
      leaves: Arrays of parameters.
      weights: Elements of each sparse matrix.
      params: Bytes of all parameters.
      embedding: Bytes of the embedding, which the backward pass does not read.
    """

    leaves: int
    weights: list[int]
    params: int
    embedding: int


def sizes_of(tx: Any, decoder: Decoder) -> Sizes:
    """Of a model under an optimizer.

    Args:
      tx: The optimizer, wrapped.
      decoder: The shapes.

    Returns:
      The sizes.
    """
    params = decoder.params()
    masks = jaxsparse.masks_of(jax.eval_shape(tx.init, params))
    return Sizes(
        leaves=len(jax.tree.leaves(params)),
        weights=[mask.size for mask in jax.tree.leaves(masks)],
        params=4 * sum(leaf.size for leaf in jax.tree.leaves(params)),
        embedding=params["embedding"].size * 4,
    )


def memory(tx: Any, decoder: Decoder, mesh: jax.sharding.Mesh) -> Memory:
    """Of jaxsparse, from shapes, dtypes and shardings.

    Temporaries are two bytes a sparse weight: the masks after the drop and after the growth. (What
    is due to the compiler, as the last mask in the place of an old one, makes it less.)

    Args:
      tx: The optimizer, wrapped.
      decoder: The shapes.
      mesh: Where everything lies.

    Returns:
      Bytes.
    """
    state = placed(jax.eval_shape(tx.init, decoder.params()), mesh)
    params = bytes_per_device(placed(decoder.params(), mesh))
    masks = bytes_per_device(jaxsparse.masks_of(state))
    return Memory(params, bytes_per_device(state) - masks, masks, params, 2 * masks)


def argsort_temporaries(sizes: Sizes) -> int:
    """Least temporaries of an update by sorting, one matrix after the other.

    Of the largest matrix: the gathered scores, and keys and indices that are sorted in place. (A
    radix sort, as on accelerators, needs both a second time.)

    Args:
      sizes: Of the model.

    Returns:
      Bytes.
    """
    return (4 + 8) * max(sizes.weights)


def pass_bytes(sizes: Sizes) -> int:
    """Payload of one pass of a search: five counts and two extremes of each matrix.

    Args:
      sizes: Of the model.

    Returns:
      Bytes.
    """
    return 4 * (_COUNTS + _EXTREMES) * len(sizes.weights)


def once_bytes(sizes: Sizes) -> int:
    """Payload of an update beside its passes: kept, dropped, grown; and whether all is finite:
    leaves, and the scores by which weights are dropped and grown.

    Args:
      sizes: Of the model.

    Returns:
      Bytes.
    """
    return 4 * 3 * len(sizes.weights) + 4 * 2 * (sizes.leaves + 2 * len(sizes.weights))


def argsort_bytes(sizes: Sizes) -> int:
    """Payload of an update by sorting: all scores are gathered, to drop and to grow.

    Args:
      sizes: Of the model.

    Returns:
      Bytes.
    """
    return 2 * 4 * sum(sizes.weights)


def step_bytes(sizes: Sizes) -> tuple[int, int]:
    """Payload of a training step under FSDP, where gathered weights are not kept.

    Args:
      sizes: Of the model.

    Returns:
      Bytes gathered, forward and backward; bytes of gradients, summed and scattered.
    """
    return 2 * sizes.params - sizes.embedding, sizes.params


def search_seconds(
    sizes: Sizes, devices: int, passes: int, reads: int, exchanges: tuple[float, float], on: Machine
) -> float:
    """Time of an update by counting.

    Each of the two searches reads four bytes of a weight or gradient and one of its mask in every
    pass, ``reads`` times, and once more to write the mask.

    Args:
      sizes: Of the model.
      devices: That share the weights evenly.
      passes: Of each search.
      reads: Of memory in a pass: 1 where the compiler merges the counts, 7 where it merges none.
      exchanges: Number of collectives, and bytes that a device sends in them.
      on: The machine.

    Returns:
      Seconds.
    """
    share = sum(sizes.weights) / devices
    read = 2 * share * (passes * reads * 5 + 6)
    count, sent = exchanges
    return read / (1e9 * on.memory_gb_s) + count * on.latency(devices) + sent / on.link(devices)


def argsort_seconds(
    sizes: Sizes, devices: int, exchanges: tuple[float, float], on: Machine
) -> float:
    """Time of an update by sorting: every device sorts all scores, twice.

    Args:
      sizes: Of the model.
      devices: That each get all scores.
      exchanges: Number of collectives, and bytes that a device sends in them.
      on: The machine.

    Returns:
      Seconds.
    """
    read = 2 * _SORT_BYTES * sum(sizes.weights)
    count, sent = exchanges
    return read / (1e9 * on.memory_gb_s) + count * on.latency(devices) + sent / on.link(devices)

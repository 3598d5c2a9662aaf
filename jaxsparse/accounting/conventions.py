"""What counts as an operation: the plain convention, and the one behind published numbers."""

from collections.abc import Sequence
from typing import NamedTuple


class Convention(NamedTuple):
    """What an operation is; each multiply-accumulate is two under all of them.

    Attributes:
      each_output: Operations of each output of a layer beside its multiply-accumulates.
      each_sum: The same, of each output of a product that no parameter feeds.
      padded_as_image: Globs of the kernels whose convolutions are counted as if the padding were
        part of the image, and that padded in turn.
      depthwise_as_one: Are the outputs of a depthwise convolution counted as one channel?
    """

    each_output: int = 0
    each_sum: int = 0
    padded_as_image: tuple[str, ...] = ()
    depthwise_as_one: bool = False


MULTIPLY_ADD = Convention()
"""2 for each multiply-accumulate of a matrix product or a convolution, and nothing else."""


def micronet(*, padded_as_image: Sequence[str] = (), depthwise_as_one: bool = False) -> Convention:
    """The count of the MicroNet challenge, which RigL's published numbers are in.

    An output of v weights takes v multiplications, v - 1 additions, one addition of a bias and one
    activation, ``2 v + 1`` in all, whether or not the layer has a bias and an activation of its own
    (normalization is taken as folded into it). Of v, a sparse layer has its kept share; the rest
    stays. Normalization, pooling and losses are not counted. The two options are what that program
    and its users did with ResNet-50 and MobileNet.

    Args:
      padded_as_image: Globs on the paths of kernels: where the image was padded by a layer of its
        own, the convolution was counted as padding what is padded already (to ``ceil(n / stride)``
        outputs of n pixels, padding included). ResNet-50's first one so has 115 x 115 outputs in
        place of 112 x 112; in MobileNet, all that stride.
      depthwise_as_one: Count a depthwise convolution of C channels as one of C inputs and one
        output, as Keras lays out its kernel: as many multiplications, and biases and activations of
        one channel.

    Returns:
      A :class:`Convention` for :func:`jaxsparse.flops`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxsparse
      >>> w, x = jax.ShapeDtypeStruct((784, 10), jnp.float32), jnp.ones((1, 784))
      >>> count = lambda how: jaxsparse.flops(lambda w, x: x @ w, w, x, convention=how).dense
      >>> count("multiply-add"), count("micronet"), 10 * (784 + 783 + 1 + 1)
      (15680, 15690, 15690)

    References:
      Evci et al., `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_, ICML 2020,
      Appendix H; `counting.py of the MicroNet challenge
      <https://github.com/google-research/google-research/tree/master/micronet_challenge>`_.
    """
    return Convention(1, -1, tuple(padded_as_image), depthwise_as_one)


CONVENTIONS = {"multiply-add": MULTIPLY_ADD, "micronet": micronet()}
"""By name."""

"""From weights that are there to a sparse training: another method, or another sparsity."""

from jaxsparse import scores
from jaxsparse.base import MaskAlgorithm


def keep_largest(algorithm: MaskAlgorithm) -> MaskAlgorithm:
    """The same method, begun with the largest of the weights that it is given.

    A method that trains sparse from the start draws its first masks by chance, since weights that
    are just initialized say nothing. Trained ones do: from dense weights this is one-shot magnitude
    pruning to the method's own budgets and structure, from sparse ones the step to a higher
    sparsity. At a lower one all nonzero weights stay, and the others start from zero, as grown ones
    do. Only the first masks differ; methods that start dense, or choose by the weights anyway, are
    returned as they are.

    Args:
      algorithm: Any ``MaskAlgorithm``.

    Returns:
      A ``MaskAlgorithm``; its ``init`` reads the weights, not only their shapes.

    Example:
      >>> import jax, jax.numpy as jnp, jaxsparse
      >>> trained = {"w": jnp.array([[0.1, -3.0, 2.0, 0.0]])}
      >>> keep_largest(jaxsparse.rigl(0.5)).init(jax.random.key(0), trained)["w"].tolist()
      [[False, True, True, False]]
    """
    choose = algorithm.choose
    if choose is None:
        return algorithm
    return algorithm._replace(init=lambda key, params: choose(key, params, scores.magnitude))

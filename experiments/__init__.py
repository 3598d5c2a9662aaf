"""Experiments with jaxsparse: data, models, one training loop, and the studies that use them."""

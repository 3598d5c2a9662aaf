"""Training in subspaces: few numbers are trained, and the parameters are a function of them."""

from jaxsparse.subspaces.dct import DctPlusSparse, dct_matrix, dct_plus_sparse
from jaxsparse.subspaces.directions import RandomSubspace, random_subspace
from jaxsparse.subspaces.hadamard import walsh_hadamard
from jaxsparse.subspaces.intrinsic import intrinsic_dimension
from jaxsparse.subspaces.projections import PROJECTIONS, Projection

__all__ = [
    "PROJECTIONS",
    "DctPlusSparse",
    "Projection",
    "RandomSubspace",
    "dct_matrix",
    "dct_plus_sparse",
    "intrinsic_dimension",
    "random_subspace",
    "walsh_hadamard",
]

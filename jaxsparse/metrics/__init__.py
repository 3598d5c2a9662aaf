"""Metrics: pure functions over arrays, compiled or compilable, in constant memory over batches."""

from jaxsparse.masks import overlap as overlap

from .gradient_flow import GradientMoments as GradientMoments
from .gradient_flow import add_gradients as add_gradients
from .gradient_flow import effective_gradient_flow as effective_gradient_flow
from .gradient_flow import effective_gradient_norm as effective_gradient_norm
from .gradient_flow import empty_moments as empty_moments
from .gradient_flow import first_order_decrease as first_order_decrease
from .gradient_flow import gradient_norm as gradient_norm
from .gradient_flow import gradient_variance as gradient_variance
from .gradient_flow import merge_moments as merge_moments
from .gradient_flow import total_variance as total_variance
from .loss_surface import Bend as Bend
from .loss_surface import HessianEigenvalues as HessianEigenvalues
from .loss_surface import Path as Path
from .loss_surface import bezier_path as bezier_path
from .loss_surface import linear_path as linear_path
from .loss_surface import loss_barrier as loss_barrier
from .loss_surface import losses_along as losses_along
from .loss_surface import top_hessian_eigenvalues as top_hessian_eigenvalues
from .loss_surface import train_bend as train_bend
from .matching import GraphDistance as GraphDistance
from .matching import graph_distance as graph_distance
from .topology import Churn as Churn
from .topology import Degrees as Degrees
from .topology import churn as churn
from .topology import dead_units as dead_units
from .topology import degree_histogram as degree_histogram
from .topology import degrees as degrees
from .topology import exploration_rates as exploration_rates
from .topology import union as union

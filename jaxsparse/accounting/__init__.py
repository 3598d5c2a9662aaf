"""What sparsity costs and saves: operations, bytes, training."""

from .conventions import MULTIPLY_ADD as MULTIPLY_ADD
from .conventions import Convention as Convention
from .conventions import micronet as micronet
from .flops import FlopsReport as FlopsReport
from .flops import LayerFlops as LayerFlops
from .flops import flops as flops
from .size import LeafSize as LeafSize
from .size import SizeReport as SizeReport
from .size import size_bytes as size_bytes
from .training import StepCost as StepCost
from .training import step_cost as step_cost
from .training import step_training_flops as step_training_flops
from .training import training_flops as training_flops

"""How good a sparse network is, beyond its accuracy."""

from jaxsparse.metrics.adversarial import ExampleLoss as ExampleLoss
from jaxsparse.metrics.adversarial import fgsm as fgsm
from jaxsparse.metrics.adversarial import pgd as pgd
from jaxsparse.metrics.calibration import Reliability as Reliability
from jaxsparse.metrics.calibration import adaptive_calibration_error as adaptive_calibration_error
from jaxsparse.metrics.calibration import brier_score as brier_score
from jaxsparse.metrics.calibration import equal_mass_edges as equal_mass_edges
from jaxsparse.metrics.calibration import equal_mass_reliability as equal_mass_reliability
from jaxsparse.metrics.calibration import expected_calibration_error as expected_calibration_error
from jaxsparse.metrics.calibration import fit_temperature as fit_temperature
from jaxsparse.metrics.calibration import maximum_calibration_error as maximum_calibration_error
from jaxsparse.metrics.calibration import negative_log_likelihood as negative_log_likelihood
from jaxsparse.metrics.calibration import reliability as reliability
from jaxsparse.metrics.out_of_distribution import ScoreHistogram as ScoreHistogram
from jaxsparse.metrics.out_of_distribution import aupr as aupr
from jaxsparse.metrics.out_of_distribution import aupr_bounds as aupr_bounds
from jaxsparse.metrics.out_of_distribution import auroc as auroc
from jaxsparse.metrics.out_of_distribution import auroc_bounds as auroc_bounds
from jaxsparse.metrics.out_of_distribution import count_scores as count_scores
from jaxsparse.metrics.out_of_distribution import energy as energy
from jaxsparse.metrics.out_of_distribution import fpr_at_tpr as fpr_at_tpr
from jaxsparse.metrics.out_of_distribution import fpr_bounds as fpr_bounds
from jaxsparse.metrics.out_of_distribution import max_softmax as max_softmax
from jaxsparse.metrics.out_of_distribution import predictive_entropy as predictive_entropy

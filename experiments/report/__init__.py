"""Runs as HTML pages to look at: ``python -m experiments.report RUN``, or several of them.

A page asks for nothing from any other place, reads on a phone, in light and in dark, and shows
what is there of a run that is not finished.
"""

from .comparison import write_comparison as write_comparison
from .costs import save_accuracy_png as save_accuracy_png
from .run_page import write_report as write_report

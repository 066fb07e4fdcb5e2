"""Statistics over the steps of a run that the alert rules compare with their thresholds.

The guide speaks of steps; Prometheus samples in seconds. So what is defined per step is computed here, per event, in
constant time and memory. Nothing here decides: a signal is a number, the threshold stands in `alerts/`.

A *point* is one logged loss: one optimizer step, or the mean of `logging_steps` of them. What is followed over points
scales with the number of points that the run will have and with those it has had: a constant that suits 60 points
gives a false alarm per run at 1,000.
"""

from training_exporter.signals.loss import LossSignals
from training_exporter.signals.pace import PaceSignals
from training_exporter.signals.text import TextQuality
from training_exporter.signals.validation import ValidationSignals

__all__ = ["LossSignals", "PaceSignals", "TextQuality", "ValidationSignals"]

"""Events from a live Hugging Face `Trainer`.

An exception in a Trainer callback ends the run, and a Python `if` on a CUDA tensor stalls the GPU. So every hook here
runs inside a guard that lets no error through, and no tensor is looked at before its copy has reached the host.
"""

from training_exporter.sources.huggingface.attachment import attach
from training_exporter.sources.huggingface.callback import PrometheusCallback
from training_exporter.sources.huggingface.facts import is_out_of_memory

__all__ = ["PrometheusCallback", "attach", "is_out_of_memory"]

"""Watches an LLM fine-tuning: figures for Prometheus, a journal that survives a crash, signals for alert rules.

from training_exporter import attach

attach(trainer)      # any Hugging Face Trainer
trainer.train()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from training_exporter import events
from training_exporter._version import __version__
from training_exporter.monitor import Monitor
from training_exporter.profile import Profile, ProfileError
from training_exporter.profile import load as load_profile
from training_exporter.sinks.server import PortTaken
from training_exporter.state import RunState
from training_exporter.web.config import WebConfigError
from training_exporter.web.config import load as load_web_config

if TYPE_CHECKING:
    from training_exporter.sources.huggingface import PrometheusCallback, attach, is_out_of_memory

__all__ = [
    "Monitor",
    "PortTaken",
    "Profile",
    "ProfileError",
    "PrometheusCallback",
    "RunState",
    "WebConfigError",
    "__version__",
    "attach",
    "events",
    "is_out_of_memory",
    "load_profile",
    "load_web_config",
]


def __getattr__(name: str) -> Any:
    # Only who asks for the Hugging Face source pays for importing torch and transformers.
    if name in {"PrometheusCallback", "attach", "is_out_of_memory"}:
        from training_exporter.sources import huggingface

        return getattr(huggingface, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""What a training prints: the guide's "Step 100/1000:" blocks on stdout, a progress bar on stderr.

Fed from the exporter's run state, so that it and /metrics never disagree.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

if TYPE_CHECKING:
    from training_exporter import Monitor, RunState


def block(state: "RunState", memory: tuple[float, float] | None = None) -> str:
    """The current figures in the guide's form; figures that are not known yet are left out.

    `memory` is (used, total) GPU memory in bytes.
    """
    lines = [f"Step {state.step}/{state.max_steps}:" if state.max_steps else f"Step {state.step}:"]

    def add(name: str, value: float | None, form: Callable[[float], str]) -> None:
        if value is not None:
            lines.append(f"- {name}: {form(value)}")

    add("Training Loss", state.loss, "{:.4f}".format)
    add("Validation Loss", state.validation_loss, "{:.4f}".format)
    add("Learning Rate", state.learning_rate, plain)
    add("Perplexity", state.perplexity, "{:.4f}".format)
    add("Tokens/second", state.tokens_per_second, "{:.0f}".format)
    if memory is not None:
        used, total = memory
        lines.append(f"- GPU Memory: {used / 2**30:.1f} GB / {total / 2**30:.0f} GB ({100 * used / total:.2f}%)")
    return "\n".join(lines)


def plain(value: float) -> str:
    """Three significant digits, never an exponent: 0.00002."""
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")


class ConsoleReport:
    """A sink: prints a block every `every` optimizer steps and moves the bar at each.

    The bar is drawn only where stderr is a terminal; blocks go through tqdm, which moves the bar out of their way.
    """

    def __init__(self, monitor: "Monitor", every: int) -> None:
        self._monitor = monitor
        self._every = every
        self._printed = 0
        self._bar: tqdm[Any] | None = None

    def __call__(self, event: Any, state: "RunState") -> None:
        if event.kind == "loss_logged" and event.step >= self._printed + self._every:
            # The loss of a step arrives while the next one runs: the block belongs to the step of the loss.
            self._printed = event.step - event.step % self._every
            self._write(block(state, self._gpu_memory()))
        if event.kind == "step_ended":
            self._advance(state)
        if event.kind == "run_ended":
            self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _advance(self, state: "RunState") -> None:
        if self._bar is None:
            self._bar = tqdm(total=state.max_steps, unit="step", disable=None, dynamic_ncols=True, leave=False)
        if state.loss is not None:
            self._bar.set_postfix_str(f"loss {state.loss:.4f}", refresh=False)
        self._bar.update((state.step or 0) - self._bar.n)

    def _write(self, text: str) -> None:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def _gpu_memory(self) -> tuple[float, float] | None:
        """(used, total) bytes of this process's GPU, from the same collector as /metrics."""
        import torch

        if self._monitor.gpu is None or not torch.cuda.is_available():
            return None
        # NVML's own order of devices is another than CUDA's: ask by UUID.
        return self._monitor.gpu.memory(str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid))

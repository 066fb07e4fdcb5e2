"""What `torchrun` starts in `test_fsdp.py`: `trading-llm`, with FSDP on the CPU too.

accelerate (1.15) takes FSDP on accelerators only; on CPUs it falls back to DDP without a word, although PyTorch shards
over gloo as well. All that is done here is to let it: sharding, gathering and saving are the real ones.
"""

import sys
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from trading_llm import cli, processes, training

_init = AcceleratorState.__init__


def _with_fsdp(self: Any, *arguments: Any, fsdp_plugin: Any = None, **named: Any) -> None:
    _init(self, *arguments, fsdp_plugin=fsdp_plugin, **named)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


class Held(TrainerCallback):  # type: ignore[misc]
    """Says how much of the model the first process holds."""

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        parameters = list(model.parameters())
        held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in parameters)
        processes.say(f"holds {held} of {sum(p.numel() for p in parameters)} parameters")


_trainer = training.CompletionTrainer


def _telling(*arguments: Any, **named: Any) -> Any:
    trainer = _trainer(*arguments, **named)
    trainer.add_callback(Held())
    return trainer


if __name__ == "__main__":
    training.CompletionTrainer = _telling  # type: ignore[assignment, misc]
    AcceleratorState.__init__ = _with_fsdp  # type: ignore[method-assign]
    sys.exit(cli.main(sys.argv[1:]))

"""The settings of one training: names, defaults, and what is allowed. The command line is made from this table."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from trading_llm.dataset import DEFAULT_DIRECTORY, TRAIN_FILE

EMBEDDED = "embedded"
"""Name of the base model that comes with this package."""

USUAL_LEARNING_RATE = 2e-4
EMBEDDED_LEARNING_RATE = 1e-3
"""The embedded model is thousands of times smaller than a usual base model and learns too slowly at 2e-4."""

QUANTIZATIONS = ("none", "8bit", "4bit")
PRECISIONS = ("auto", "bf16", "fp16", "fp32")
ATTENTIONS = ("auto", "sdpa", "flash_attention_2")
OPTIMIZERS = ("adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit")
STOPS = ("none", "nan")
LAST = "last"
"""What `--resume` alone stands for: the newest complete checkpoint in the output directory."""

SCHEDULERS = ("linear", "cosine", "constant", "constant_with_warmup")


@dataclass(frozen=True)
class TrainSettings:
    """One training run. Steps are optimizer steps; None stands for the default that the comment names."""

    base_model: str = EMBEDDED  # or a local directory or a Hub name, which is downloaded
    train_data: Path | None = None  # default: the embedded dataset, generated if it is not there
    eval_data: Path | None = None  # default: eval_data.json beside the training data, else a share of it
    eval_share: float = 0.05  # of the training data, for validation, where no other data is
    chat_template: Path | None = None  # default: the base model's own, plain text where it has none
    output_dir: Path = Path("models/trading_llm")
    run_name: str | None = None  # default: the exporter's (output directory and time)
    num_epochs: float = 3.0
    batch_size: int = 8
    gradient_accumulation_steps: int = 1
    learning_rate: float | None = None  # default: 2e-4, for the embedded model its own
    lr_scheduler: str = "cosine"
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    quantization: str = "none"
    max_length: int = 512
    padding_free: bool = True  # where the model's attention can do it
    precision: str = "auto"  # of computing: bf16 (or fp16) on a GPU, fp32 on a CPU
    attention: str = "auto"  # FlashAttention-2 on a GPU where it is installed, else PyTorch's SDPA
    gradient_checkpointing: bool | None = None  # default: on a GPU, but not for the embedded model
    optimizer: str | None = None  # default: paged_adamw_8bit for a quantized base on a GPU, else adamw_torch_fused
    liger: bool = False
    compile: bool = False
    seed: int = 42
    logging_steps: int = 25
    eval_steps: int | None = None  # default: a tenth of the run
    quality_prompts: int = 16  # validation prompts on which texts are generated and scored; 0: none
    save_steps: int | None = None  # default: a tenth of the run
    early_stopping: int | None = None  # evaluations without a better validation loss; default: never
    resume: str | None = None  # LAST, or the path of a checkpoint; default: from the beginning
    auto_batch: bool = False
    stop_on: str = "none"
    wandb: bool = True  # where it is installed
    threads: int | None = None  # default: all cores (torch's choice)
    metrics_port: int | None = None  # default: the exporter's usual port or the next free one
    metrics_host: str = "127.0.0.1"
    metrics_web_config: Path | None = None  # default: TRAINING_EXPORTER_WEB_CONFIG, else neither TLS nor passwords
    profile: Path | None = None  # default: the guide's expectations
    inject: str | None = None

    @property
    def peak_learning_rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        return EMBEDDED_LEARNING_RATE if self.base_model == EMBEDDED else USUAL_LEARNING_RATE

    @property
    def train_path(self) -> Path:
        return self.train_data or DEFAULT_DIRECTORY / TRAIN_FILE

    def described(self) -> dict[str, str]:
        """The settings that `llm_training_run_info` and the alerts' messages carry.

        The batch size and the accumulation are not among them: the exporter reads them from the Trainer, where
        `--auto-batch` changes them.
        """
        return {
            "base_model": self.base_model,
            "dataset": str(self.train_path),
            "learning_rate": f"{self.peak_learning_rate:g}",
            "lr_scheduler": self.lr_scheduler,
            "lora_r": str(self.lora_r),
            "quantization": self.quantization,
            "num_epochs": f"{self.num_epochs:g}",
            "git_commit": git_commit(),
        }


def git_commit() -> str:
    """Short id of the commit that the working directory is at, with `-dirty` for changes beside it; "" outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=8", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()

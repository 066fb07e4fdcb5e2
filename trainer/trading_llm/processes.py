"""One process or many: `torchrun` and `accelerate launch` tell each process its place in the environment."""

import os


def count() -> int:
    """Processes of the job."""
    return int(os.environ.get("WORLD_SIZE", 1))


def first() -> bool:
    """Whether this process speaks for the run."""
    return int(os.environ.get("RANK", 0)) == 0


def say(text: str) -> None:
    """Print a line, once for the whole job."""
    if first():
        print(text, flush=True)

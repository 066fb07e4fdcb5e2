"""Which examples a training is about: files that the settings name, or the embedded dataset."""

from collections.abc import Sequence
from dataclasses import dataclass

from trading_llm.data import split
from trading_llm.dataset import EVAL_FILE, TRAIN_FILE, simulated_dataset, write_dataset
from trading_llm.examples import Example, read_examples
from trading_llm.processes import say
from trading_llm.settings import TrainSettings


@dataclass(frozen=True)
class Source:
    """Examples and where they came from, as messages name it."""

    name: str
    examples: Sequence[Example]


def read_sources(settings: TrainSettings) -> tuple[Source, Source]:
    """(training, validation); the embedded dataset is written first when no file was named and none is there."""
    training = settings.train_path
    if settings.train_data is None and not training.exists():
        say(f"No training data named: writing the embedded dataset to {training.parent}")
        write_dataset(training.parent, *simulated_dataset())
    beside = training.parent / EVAL_FILE
    validation = settings.eval_data
    if validation is None and training.name == TRAIN_FILE and beside.exists():
        validation = beside
    examples = read_examples(training)
    if validation is not None:
        return Source(str(training), examples), Source(str(validation), read_examples(validation))
    kept, held = split(examples, settings.eval_share, settings.seed)
    return Source(str(training), kept), Source(f"{len(held)} records of {training}", held)

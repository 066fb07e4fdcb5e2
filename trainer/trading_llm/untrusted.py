"""Files of a checkpoint or an adapter may come from somebody else: none of them may run code when it is read.

Weights are safetensors. What PyTorch and transformers keep as pickles (optimizer, schedule, random numbers) they read
with `weights_only`, which builds tensors and numbers and nothing else; here such a file is refused before, by name.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint
from transformers.trainer_pt_utils import safe_globals

from trading_llm.errors import UsageError

PICKLES = {".pt", ".pth", ".bin", ".pkl"}
NEVER_READ = {"training_args.bin"}  # written by the Trainer for people; resuming does not look at it
SHARDS = ".metadata"
"""The index of a checkpoint in shards (FSDP). PyTorch unpickles it without a check."""

_METADATA = "torch.distributed.checkpoint.metadata"
SHARD_CLASSES = {
    f"{_METADATA}.Metadata", f"{_METADATA}.StorageMeta", f"{_METADATA}.MetadataIndex",
    f"{_METADATA}.TensorStorageMetadata", f"{_METADATA}.TensorProperties", f"{_METADATA}._MEM_FORMAT_ENCODING",
    f"{_METADATA}.ChunkStorageMetadata", f"{_METADATA}.BytesStorageMetadata",
    "torch.distributed.checkpoint.filesystem._StorageInfo", "torch.serialization._get_layout", "torch.Size",
    "collections.OrderedDict", "pathlib.PosixPath",
}  # fmt: skip


def check_checkpoint(directory: Path) -> None:
    """Raises UsageError for a checkpoint with a file that is more than data."""
    for path in sorted(directory.rglob("*")):
        if path.name in NEVER_READ or not path.is_file():
            continue
        try:
            if path.name == SHARDS:
                _check_index(path)
            elif path.suffix in PICKLES:
                with safe_globals():
                    unsafe = get_unsafe_globals_in_checkpoint(str(path))
                if unsafe:
                    raise pickle.UnpicklingError(f"it calls {', '.join(sorted(unsafe))}")
        except Exception as error:  # whatever reading a hostile or torn file raises
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise UsageError(
                f"--resume: found {path}, which is not only tensors and numbers ({reason}); allowed: a checkpoint as "
                "`trading-llm train` writes it"
            ) from None


def check_adapter_config(path: Path, config: dict[str, Any]) -> None:
    """Raises UsageError for an adapter's configuration that names a Python module to import."""
    for key in ("auto_mapping", "megatron_config"):
        if config.get(key):
            raise UsageError(f"--adapter: {path}: {key}: found {config[key]!r}; allowed: null, as no code is imported")


class _Index(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if not _is_data(module, name):
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return super().find_class(module, name)


def _is_data(module: str, name: str) -> bool:
    dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
    return dtype or f"{module}.{name}" in SHARD_CLASSES


def _check_index(path: Path) -> None:
    with path.open("rb") as file:
        _Index(file).load()

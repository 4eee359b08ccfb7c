"""Model directories: model.safetensors, config.json, tokenizer.json, MODEL_CARD.md.

Weights are mapped from the file, not copied: a policy takes no more memory than its weights, and
the server and its align worker share them. Only a change of precision or a GPU makes a copy, block
by block.
"""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, final

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers.models.gemma.modeling_gemma import GemmaRotaryEmbedding
from transformers.models.siglip.modeling_siglip import SiglipVisionEmbeddings

from selfalign.errors import ModelError
from selfalign.model.config import ModelConfig, dummy_config
from selfalign.model.device import checked_device
from selfalign.model.identity import file_identity
from selfalign.model.keys import keeps_float32
from selfalign.model.policy import Policy
from selfalign.model.processing import NORM_STATS, Processing
from selfalign.model.tensor_file import Planned, TensorFile, write_tensors
from selfalign.model.tokenizer import read_tokenizer

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
# What a precision of the weights is called in settings; stored: each as it is in its file.
PRECISIONS = {"stored": None, "float32": torch.float32, "bfloat16": torch.bfloat16}
# The second is SentencePiece's, as big_vision publishes PaliGemma's.
TOKENIZERS = (TOKENIZER, "tokenizer.model")


def shipped_model_dir() -> Path:
    """The directory of the `tiny` model that comes with the package."""
    return Path(str(files("selfalign") / "assets" / "tiny"))


def load_policy(
    directory: Path, *, device: str = "cpu", dtype: torch.dtype | None = None
) -> Policy:
    """Read a frozen policy. Raises ModelError that names a missing, extra or wrong-shaped key.

    On a GPU the weights are there when this returns: any stream may read them.

    Args:
        directory: A model directory.
        device: Where the weights go.
        dtype: The precision of the weights; None takes them as they are in the file. In half
            precision those stay float32 that openpi keeps so (`keeps_float32`), W0 and buffers.
    """
    checked_device(device)
    config = ModelConfig.load(directory / CONFIG)
    if not config.attached:
        raise ModelError(
            f"{directory} has no TTT layers and no alignment expert; make a directory that has "
            f"them with: selfalign attach --from {directory} --to OTHER_DIR"
        )
    policy = empty_policy(config, read_tokenizer(tokenizer_path(directory)))
    policy.processing = Processing.of_directory(directory)
    file = TensorFile(directory / WEIGHTS)
    check_keys(file, policy.state_dict())
    identity = file_identity(file, config, policy.processing)
    weights = {name: _load(file, name, _precision(name, dtype), device) for name in file.entries}
    policy.load_state_dict(weights, assign=True)
    _fill_buffers(policy, device)
    return policy.freeze(identity)


def save_policy(policy: Policy, directory: Path) -> None:
    """Write a model directory, with the weights in the precision that they have."""
    directory.mkdir(parents=True, exist_ok=True)
    state = policy.state_dict()
    write_tensors(directory / WEIGHTS, {name: _planned(state[name]) for name in state})
    policy.config.save(directory / CONFIG)
    policy.prompts.tokenizer.save(str(directory / TOKENIZER))
    if policy.processing is not None:
        policy.processing.save(directory / NORM_STATS)


def make_dummy_policy(seed: int = 0, config: ModelConfig | None = None) -> Policy:
    """A small frozen policy with random weights, for tests."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = Policy(config or dummy_config())
    return policy.freeze()


def empty_policy(config: ModelConfig, tokenizer: Tokenizer | None = None) -> Policy:
    """A policy of names and shapes only, on the meta device: it takes no memory."""
    with torch.device("meta"), _WithoutInitialisation():
        return Policy(config, tokenizer)


def tokenizer_path(directory: Path) -> Path:
    """The tokenizer of a model directory; tokenizer.json where there is none."""
    paths = [directory / name for name in TOKENIZERS]
    return next((path for path in paths if path.is_file()), paths[0])


@final
class _WithoutInitialisation(TorchFunctionMode):
    """Skips torch.nn.init: on the meta device it fills nothing, but takes most of the time."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def check_keys(file: TensorFile, expected: dict[str, Tensor]) -> None:
    """Compare the names and shapes of a file with what a configuration asks for.

    Raises:
        ModelError: a key is missing, unknown or of another shape.
    """
    missing = sorted(expected.keys() - file.entries.keys())
    extra = sorted(file.entries.keys() - expected.keys())
    if missing or extra:
        raise ModelError(f"{file.path}: missing keys {missing[:5]}, unknown keys {extra[:5]}")
    for name, entry in file.entries.items():
        if entry.shape != tuple(expected[name].shape):
            raise ModelError(
                f"{file.path}: {name} is {entry.shape}, config.json asks for "
                f"{tuple(expected[name].shape)}"
            )


def _precision(name: str, dtype: torch.dtype | None) -> torch.dtype | None:
    if name.startswith("w0_") or (dtype is not None and keeps_float32(name)):
        return torch.float32
    return dtype


def _load(file: TensorFile, name: str, dtype: torch.dtype | None, device: str) -> Tensor:
    stored = file.entries[name].dtype
    if torch.device(device).type == "cpu" and dtype in (None, stored):
        return file.mapped(name)
    return file.read(name, dtype=dtype or stored, device=device)


def _fill_buffers(policy: Policy, device: str) -> None:
    """Give their numbers to the buffers that no file holds. They were built without."""
    for module in policy.modules():
        if isinstance(module, GemmaRotaryEmbedding):
            made = GemmaRotaryEmbedding(module.config)
            module.inv_freq = made.inv_freq
            module.original_inv_freq = made.original_inv_freq
        elif isinstance(module, SiglipVisionEmbeddings):
            numbers = torch.arange(module.num_positions).expand(1, -1)
            module.register_buffer("position_ids", numbers, persistent=False)
    left = [name for name, buffer in policy.named_buffers() if buffer.is_meta]
    if left:
        raise ModelError(f"nothing gives these buffers their numbers: {left}")
    for module in policy.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


def _planned(tensor: Tensor) -> Planned:
    return Planned(tensor.dtype, tuple(tensor.shape), lambda: (tensor,))

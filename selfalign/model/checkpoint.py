"""Model directories: model.safetensors, config.json, tokenizer.json, MODEL_CARD.md."""

from importlib.resources import files
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from selfalign.errors import ModelError
from selfalign.model.config import ModelConfig, dummy_config
from selfalign.model.policy import Policy
from selfalign.model.tokenizer import read_tokenizer

_WEIGHTS, _CONFIG, _TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


def shipped_model_dir() -> Path:
    """The directory of the `tiny` model that comes with the package."""
    return Path(str(files("selfalign") / "assets" / "tiny"))


def load_policy(
    directory: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Policy:
    """Read a frozen policy. Raises ModelError that names a missing, extra or wrong-shaped key.

    W0 stays float32 whatever dtype the rest is cast to.
    """
    config = ModelConfig.load(directory / _CONFIG)
    tokenizer = read_tokenizer(directory / _TOKENIZER)
    policy = Policy(config, tokenizer)
    tensors = _read(directory / _WEIGHTS)
    _check(tensors, policy.state_dict(), directory / _WEIGHTS)
    policy.load_state_dict(tensors)
    # Buffers stay float32 like W0: rotary frequencies in half precision would be other positions.
    for name, parameter in policy.named_parameters():
        if not name.startswith("w0_"):
            parameter.data = parameter.data.to(dtype)
    return policy.to(device=device).freeze()


def save_policy(policy: Policy, directory: Path) -> None:
    """Write a model directory, with the weights in the precision that they have."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in policy.state_dict().items()
    }
    save_file(state, directory / _WEIGHTS)
    policy.config.save(directory / _CONFIG)
    policy.prompts.tokenizer.save(str(directory / _TOKENIZER))


def make_dummy_policy(seed: int = 0, config: ModelConfig | None = None) -> Policy:
    """A small frozen policy with random weights, for tests."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = Policy(config or dummy_config())
    return policy.freeze()


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"{path} does not exist; a model directory has a {_WEIGHTS}")
    try:
        with safe_open(path, framework="pt") as reader:
            return {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file: {error}") from None


def _check(tensors: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    missing, extra = (
        sorted(expected.keys() - tensors.keys()),
        sorted(tensors.keys() - expected.keys()),
    )
    if missing or extra:
        raise ModelError(f"{path}: missing keys {missing[:5]}, unknown keys {extra[:5]}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ModelError(
                f"{path}: {name} is {tuple(tensor.shape)}, config.json asks for "
                f"{tuple(expected[name].shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{path}: {name} holds NaN or infinity")

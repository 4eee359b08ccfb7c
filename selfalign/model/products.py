"""Linear layers without gradients, by oneDNN on a CPU.

In float32 PyTorch itself calls MKL, which runs well below the peak of processors that are not
Intel's; oneDNN makes its kernels for the processor that it finds and takes the weights as they are
(no copy). In bfloat16 PyTorch calls oneDNN too, but not with what follows the product, which here
is added in float32 while the result is still in cache.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Below this a call of oneDNN costs more than it saves.
_SMALLEST = 1 << 18
_HAS_BFLOAT16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def product(linear: nn.Linear, x: Tensor) -> Tensor:
    """linear(x)."""
    if not _by_onednn(linear, x):
        return F.linear(x, linear.weight, linear.bias)
    return _onednn(x, linear, "none", "")


def product_gelu(linear: nn.Linear, x: Tensor) -> Tensor:
    """gelu(linear(x)), by tanh as Gemma and SigLIP have it."""
    if not _by_onednn(linear, x):
        return F.gelu(F.linear(x, linear.weight, linear.bias), approximate="tanh")
    return _onednn(x, linear, "gelu", "tanh")


def product_times(linear: nn.Linear, x: Tensor, other: Tensor) -> Tensor:
    """linear(x) * other."""
    if not _by_onednn(linear, x):
        return F.linear(x, linear.weight, linear.bias) * other
    return _onednn_with(x, linear, other, "mul")


def product_plus(linear: nn.Linear, x: Tensor, other: Tensor) -> Tensor:
    """linear(x) + other."""
    if not _by_onednn(linear, x):
        return F.linear(x, linear.weight, linear.bias) + other
    return _onednn_with(x, linear, other, "add")


def _by_onednn(linear: nn.Linear, x: Tensor) -> bool:
    return (
        not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and linear.weight.numel() >= _SMALLEST
        and torch.backends.mkldnn.is_available()
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and _HAS_BFLOAT16))
    )


def _onednn(x: Tensor, linear: nn.Linear, after: str, algorithm: str) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(
        x, linear.weight, linear.bias, after, [], algorithm
    )
    return out


def _onednn_with(x: Tensor, linear: nn.Linear, other: Tensor, after: str) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
        x, other, linear.weight, linear.bias, after
    )
    return out

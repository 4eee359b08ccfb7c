"""Fast weights W: the only tensors that change on the robot.

Shape key: G groups (embodiments) in a batch, L layers with TTT, h heads, d head width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

_PREFIX = "ttt"


@final
@dataclass(frozen=True)
class FastWeights:
    """One value of W, or G of them. Treat it as immutable: alignment returns a new one.

    W1 is float32 [L, h, d, d], b1 float32 [L, h, 1, d]; with a leading G when batched. In a batch
    of B samples, sample i uses W number i // (B / G): samples of one embodiment stand together.
    `layers` names the action-expert layer of each of the L entries.
    """

    W1: Tensor
    b1: Tensor
    layers: tuple[int, ...]

    def __post_init__(self) -> None:
        *lead, n_layers, heads, dim, dim2 = self.W1.shape
        if len(lead) > 1 or dim != dim2 or n_layers != len(self.layers):
            raise ValueError(f"W1 must be [(G,) {len(self.layers)}, h, d, d], not {self.W1.shape}")
        if self.b1.shape != (*lead, n_layers, heads, 1, dim):
            raise ValueError(f"b1 must be {[*lead, n_layers, heads, 1, dim]}, not {self.b1.shape}")

    @property
    def groups(self) -> int | None:
        """G, or None when this is one single W."""
        return self.W1.shape[0] if self.W1.dim() == 5 else None

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to both tensors."""
        return type(self)(function(self.W1), function(self.b1), self.layers)

    def combine(self, other: Self, function: Callable[[Tensor, Tensor], Tensor]) -> Self:
        """Apply a function of two tensors to the pairs of tensors of self and other."""
        return type(self)(function(self.W1, other.W1), function(self.b1, other.b1), self.layers)

    def detach(self) -> Self:
        """A copy that shares nothing with this one and carries no gradient."""
        return self.map(lambda tensor: tensor.detach().clone())

    def norm(self) -> Tensor:
        """Euclidean length over both tensors: [] or [G]."""
        n = 4 if self.groups is None else 5
        dims = tuple(range(n - 4, n))
        return (self.W1.square().sum(dims) + self.b1.square().sum(dims)).sqrt()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name to shape, as `named` gives them."""
        return {name: tuple(tensor.shape) for name, tensor in self.named().items()}

    def named(self) -> dict[str, Tensor]:
        """One entry per tensor and layer: `ttt.{layer}.W1` [h, d, d], `ttt.{layer}.b1` [h, 1, d].

        Raises ValueError for a batched W: a file holds one W.
        """
        if self.groups is not None:
            raise ValueError(f"a batch of {self.groups} W has no single set of names")
        out: dict[str, Tensor] = {}
        for row, layer in enumerate(self.layers):
            out[f"{_PREFIX}.{layer}.W1"] = self.W1[row].contiguous()
            out[f"{_PREFIX}.{layer}.b1"] = self.b1[row].contiguous()
        return out

    @classmethod
    def from_named(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `named`. Raises KeyError for a layer with only one of its two tensors."""
        layers = sorted({int(name.split(".")[1]) for name in tensors})
        return cls(
            torch.stack([tensors[f"{_PREFIX}.{layer}.W1"] for layer in layers]),
            torch.stack([tensors[f"{_PREFIX}.{layer}.b1"] for layer in layers]),
            tuple(layers),
        )

    @classmethod
    def stack(cls, weights: list[Self]) -> Self:
        """Join single W of the same model into one batch of G = len(weights)."""
        return cls(
            torch.stack([w.W1 for w in weights]),
            torch.stack([w.b1 for w in weights]),
            weights[0].layers,
        )

    def select(self, groups: Tensor) -> Self:
        """Choose members of a batch: groups is an index tensor [n]."""
        return self.map(lambda tensor: tensor[groups])

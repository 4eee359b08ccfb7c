"""A running mean of weights over iterations.

The trunk learns the embodiments of the pool by heart and forgets them again as they leave it; the
mean over many pools keeps what they have in common.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

_PREFIX = "mean."


@final
class RunningMean:
    """The exponential mean of some parameters. Short at first, so that the start is forgotten."""

    def __init__(self, parameters: nn.ParameterDict, decay: float) -> None:
        self._parameters, self._decay = parameters, decay
        self._mean = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Take the weights after an iteration (counted from 0) into the mean."""
        decay = min(self._decay, (1 + iteration) / (10 + iteration))
        for name, parameter in self._parameters.items():
            self._mean[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The parameters are the mean meanwhile."""
        own = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._write(self._mean)
        try:
            yield
        finally:
            self._write(own)

    def state(self) -> dict[str, Tensor]:
        """For `restore`."""
        return {_PREFIX + name: mean for name, mean in self._mean.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` said, among other things; starts anew where nothing is there."""
        for name, parameter in self._parameters.items():
            self._mean[name].copy_(state.get(_PREFIX + name, parameter.detach()))

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])

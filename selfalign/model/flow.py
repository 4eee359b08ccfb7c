"""Flow matching in openpi's convention: time 1 is noise, time 0 is the action.

x_t = t * noise + (1 - t) * action; velocity u = noise - action; the sampler steps from 1 to 0.

Shape key: B batch, H horizon, A action numbers.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

# Times are drawn from Beta(1.5, 1), scaled into (0.001, 1): openpi's training distribution.
_BETA = (1.5, 1.0)
_TIME_SCALE, _TIME_SHIFT = 0.999, 0.001
# A predicted action turns into a velocity by division by the time: keep it off zero.
_MIN_TIME = 1e-3

FlowTarget = Literal["velocity", "clean"]
# How a sampler tells the time: 1 - i / steps, or -1 / steps added up in float32, as openpi does.
# They differ by 1e-7, which moves a sine of period 4e-3 by 1e-4 and a chunk by 4e-5.
Clock = Literal["even", "summed"]


def sample_time(batch: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Training times [B]. Beta(1.5, 1) has distribution t^1.5, so its inverse is u^(2/3)."""
    uniform = torch.rand(batch, generator=generator, device=device)
    return uniform ** (1 / _BETA[0]) * _TIME_SCALE + _TIME_SHIFT


def interpolate(actions_BHA: Tensor, noise_BHA: Tensor, time_B: Tensor) -> Tensor:
    """The noisy chunk x_t, at one time for each chunk [B] or for each action [B, H]."""
    t = time_B[..., None] if time_B.dim() == 2 else time_B[:, None, None]
    return t * noise_BHA + (1 - t) * actions_BHA


def flow_target(actions_BHA: Tensor, noise_BHA: Tensor, target: FlowTarget) -> Tensor:
    """What the network should predict at any time."""
    return noise_BHA - actions_BHA if target == "velocity" else actions_BHA


def to_velocity(predicted: Tensor, x_t: Tensor, time: float, target: FlowTarget) -> Tensor:
    """The velocity that a prediction means: (x_t - action) / t for a predicted action."""
    return predicted if target == "velocity" else (x_t - predicted) / max(time, _MIN_TIME)


def times(steps: int, clock: Clock = "even") -> list[float]:
    """The times at which the sampler evaluates the network, from 1 downwards."""
    if clock == "even":
        return [1.0 - index / steps for index in range(steps)]
    found, delta = [np.float32(1.0)], np.float32(-1.0 / steps)
    for _ in range(steps - 1):
        found.append(np.float32(found[-1] + delta))
    return [float(time) for time in found]


def sample(
    predict: Callable[[Tensor, Tensor], Tensor],
    noise_BHA: Tensor,
    steps: int,
    target: FlowTarget,
    clock: Clock = "even",
) -> Tensor:
    """Euler integration from noise to a chunk [B, H, A]. `predict(x_t, time_B)` is the network."""
    x, delta = noise_BHA, -1.0 / steps
    for time in times(steps, clock):
        time_B = torch.full((x.shape[0],), time, device=x.device, dtype=torch.float32)
        x = x + delta * to_velocity(predict(x, time_B), x, time, target)
    return x


def time_embedding(time: Tensor, width: int, min_period: float, max_period: float) -> Tensor:
    """Sine and cosine of times [...] at geometrically spaced periods: [..., width]."""
    fraction = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64, device=time.device)
    period = min_period * (max_period / min_period) ** fraction
    angle = 2 * torch.pi / period * time.double()[..., None]
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(time.dtype)

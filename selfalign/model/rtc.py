"""Real-time chunking: a new chunk that continues the one being executed, from whatever W.

While a chunk is computed the robot executes steps of the chunk before it. Those `delay` steps are
frozen: the new chunk must agree with them, and should agree less and less with what follows, up to
step `until`. The sampler in-paints. Two forms:

- guided: works with any flow policy. Each step is corrected by the disagreement, along its gradient
  (pseudo-inverse guidance; Black, Galliker, Levine 2025, arXiv 2506.07339, with t = 1 - tau) or,
  by default, as it is.
- prefixed: for a model trained with frozen starts (`ModelConfig.trained_delay`). Frozen actions are
  given clean with a time of 0 of their own; costs nothing (Black et al. 2025, arXiv 2512.05964).

Shape key: B batch, H horizon, A action numbers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from selfalign.errors import ModelError
from selfalign.model import flow
from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix
from selfalign.model.weights import FastWeights

Form = Literal["auto", "guided", "trained"]
Jacobian = Literal["network", "identity"]
# What the network says of a chunk [B, H, A] at a time: an action or a velocity, as trained.
Network = Callable[[Tensor, float], Tensor]


@final
@dataclass(frozen=True)
class Overlap:
    """What is left of the chunks being executed, from the step of the new observations on.

    Attributes:
        actions_BHA: normalised; rows that nobody knows may hold anything finite.
        delay_B: how many steps are frozen: they will have been executed when the new chunk comes.
        until_B: the first step that is free; at most the number of known rows. 0 in both: this
            sample continues nothing, and is sampled as without an overlap.
        known_A: True for action numbers that the robot has; padding is not pulled anywhere.
    """

    actions_BHA: Tensor
    delay_B: Tensor
    until_B: Tensor
    known_A: Tensor

    def __post_init__(self) -> None:
        batch, horizon, _ = self.actions_BHA.shape
        if self.delay_B.shape != (batch,) or self.until_B.shape != (batch,):
            raise ValueError(f"delay and until must be [{batch}], one a chunk")
        lowest, highest = int(self.delay_B.min()), int(self.until_B.max())
        if lowest < 0 or highest > horizon or bool((self.delay_B > self.until_B).any()):
            raise ValueError(
                f"0 <= delay <= until <= {horizon} must hold, got delay {self.delay_B.tolist()}, "
                f"until {self.until_B.tolist()}"
            )

    @property
    def longest_delay(self) -> int:
        """The largest delay of the batch [step]."""
        return int(self.delay_B.max())

    def frozen(self) -> Tensor:
        """True where an action is frozen: bool [B, H]."""
        steps = torch.arange(self.actions_BHA.shape[1], device=self.delay_B.device)
        return steps < self.delay_B[:, None]

    def weights(self) -> Tensor:
        """How much each step counts: 1 while frozen, then decaying, 0 from `until` on: [B, H].

        The decay is w (e^w - 1) / (e - 1) with w falling linearly (equation 5 of the paper).
        """
        steps = torch.arange(self.actions_BHA.shape[1], device=self.delay_B.device)
        delay_B1, until_B1 = self.delay_B[:, None], self.until_B[:, None]
        linear = ((until_B1 - steps) / (until_B1 - delay_B1 + 1)).clamp(0, 1)
        decayed = linear * torch.expm1(linear) / math.expm1(1)
        return torch.where(steps < delay_B1, 1.0, decayed)


@final
@dataclass(frozen=True)
class Guidance:
    """How strongly a chunk is pulled towards the one before it.

    Attributes:
        jacobian: `network` takes the gradient through the network, as the paper does. `identity`
            takes the network's velocity as constant: there is no backward pass, and a policy that
            is sure of itself, whose gradient is small, is pulled as well.
        most: bound of the guidance weight (beta of the paper); None: the number of steps, so that
            no step goes further than to the old action.
    """

    jacobian: Jacobian = "identity"
    most: float | None = None

    def __post_init__(self) -> None:
        if self.most is not None and not self.most > 0:
            raise ValueError(f"the bound of the guidance weight must be positive, got {self.most}")

    def weight(self, time: float, steps: int) -> float:
        """min(most, (1 - tau) / (tau r^2)) at tau = 1 - t, r^2 = t^2 / (t^2 + (1 - t)^2)."""
        most, rest = self.most or float(steps), time * (1 - time)
        return min(most, (time**2 + (1 - time) ** 2) / rest) if rest > 0 else most


def continue_chunk(
    policy: Policy,
    prefix: Prefix,
    state_Bs: Tensor,
    w: FastWeights,
    overlap: Overlap,
    *,
    noise: Tensor,
    form: Form = "auto",
    guidance: Guidance | None = None,
) -> Tensor:
    """A normalised chunk [B, H, A] that continues `overlap`; its frozen actions are the old ones.

    Call it under `no_grad`, not under `inference_mode`: the network's Jacobian takes gradients.

    Args:
        policy: the frozen policy.
        prefix: of the new observations.
        state_Bs: of the new observations.
        w: the W of the new chunk; nothing asks which W made the old one.
        overlap: what is left of the old chunks.
        noise: [B, H, A].
        form: `trained`, `guided`, or `auto`: trained where the model was trained for such a delay.
        guidance: of the guided form.

    Raises:
        ModelError: the trained form with a model that was not trained for so long a delay.
    """
    config, guidance = policy.config, guidance or Guidance()
    trained_B = _trained(policy, overlap, form)

    def predict(x_t: Tensor, time: Tensor) -> Tensor:
        return policy.predict(prefix, state_Bs, x_t, time, w)

    ones_B = torch.ones(len(prefix), device=noise.device)
    if trained_B.any():
        network = prefixed(predict, overlap, trained_B)
    elif guidance.jacobian == "identity":
        network = policy.denoiser(prefix, state_Bs, w)
    else:
        network = lambda x_t, time: predict(x_t, ones_B * time)  # noqa: E731
    return sample_guided(
        network, noise, config.flow_times, config.flow_target, overlap, guidance, trained_B
    )


def prefixed(
    predict: Callable[[Tensor, Tensor], Tensor], overlap: Overlap, trained_B: Tensor
) -> Network:
    """The network of the trained form, for those chunks: it always sees frozen actions clean.

    `predict(x_t, time_BH)` gets a time of 0 for each of them.
    """
    frozen_BH = overlap.frozen() & trained_B[:, None]

    def network(x_t: Tensor, time: float) -> Tensor:
        x_t = torch.where(frozen_BH[..., None], overlap.actions_BHA, x_t)
        time_BH = torch.full(frozen_BH.shape, time, device=x_t.device, dtype=torch.float32)
        return predict(x_t, time_BH.masked_fill(frozen_BH, 0.0))

    return network


def sample_guided(
    network: Network,
    noise_BHA: Tensor,
    times: list[float],
    target: flow.FlowTarget,
    overlap: Overlap,
    guidance: Guidance,
    trained_B: Tensor | None = None,
) -> Tensor:
    """Euler integration with guidance: [B, H, A].

    Args:
        network: what is sampled; `prefixed` where a chunk is of the trained form.
        noise_BHA: where it starts.
        times: at which the network is asked (`flow.times`).
        target: what the network predicts.
        overlap: what is continued.
        guidance: how strongly.
        trained_B: chunks of the trained form, which are not guided; None: there are none.

    Raises:
        ModelError: called under `inference_mode` with the network's Jacobian.
    """
    weights_BHA = (overlap.weights()[..., None] * overlap.known_A).to(noise_BHA.dtype)
    jacobian = guidance.jacobian
    if trained_B is not None:
        weights_BHA = weights_BHA * ~trained_B[:, None, None]
        # Nothing to guide: no need for gradients.
        jacobian = "identity" if trained_B.all() else jacobian
    if jacobian == "network" and torch.is_inference_mode_enabled():
        raise ModelError("guided chunks take gradients: use torch.no_grad, not inference_mode")
    x = noise_BHA
    steps = len(times)
    for time in times:
        velocity, correction = _corrected(
            network, x, time, target, overlap.actions_BHA, weights_BHA, jacobian
        )
        x = x - (velocity - guidance.weight(time, steps) * correction) / steps
    return torch.where(overlap.frozen()[..., None], overlap.actions_BHA, x)


def training_times(time_B: Tensor, delay_B: Tensor, horizon: int) -> Tensor:
    """Times [B, H] that teach the trained form: 0 for the frozen start of each chunk.

    Give them to `Policy.action_loss`, which then sees the frozen actions clean, and leave out the
    loss where they are 0. Draw delays from 0 to the `trained_delay` that the config is to say.
    """
    frozen_BH = torch.arange(horizon, device=delay_B.device) < delay_B[:, None]
    return time_B[:, None].expand(-1, horizon).masked_fill(frozen_BH, 0.0)


def _corrected(
    network: Network,
    x: Tensor,
    time: float,
    target: flow.FlowTarget,
    previous_BHA: Tensor,
    weights_BHA: Tensor,
    jacobian: Jacobian,
) -> tuple[Tensor, Tensor]:
    """The velocity, and how the expected action moves towards the old one along x: J^T error."""
    with torch.set_grad_enabled(jacobian == "network"):
        if jacobian == "network":
            x = x.detach().requires_grad_()
        predicted = network(x, time)
        velocity = flow.to_velocity(predicted, x, time, target)
        clean = predicted if target == "clean" else x - time * velocity
        error = ((previous_BHA - clean) * weights_BHA).detach()
        if jacobian == "identity":
            return velocity, error
        (correction,) = torch.autograd.grad(clean, x, error)
    return velocity.detach(), correction


def _trained(policy: Policy, overlap: Overlap, form: Form) -> Tensor:
    """Which chunks take the trained form: bool [B], each chosen for itself."""
    longest, config = policy.config.trained_delay, policy.config
    if form == "trained" and overlap.longest_delay > longest:
        raise ModelError(
            f"model {config.variant!r} was trained for frozen starts of at most {longest} steps "
            f"(trained_delay), not {overlap.longest_delay}; use the guided form"
        )
    if form == "guided":
        return torch.zeros_like(overlap.delay_B, dtype=torch.bool)
    return (overlap.delay_B > 0) & (overlap.delay_B <= longest)

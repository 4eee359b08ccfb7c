"""Our policy at a small geometry, with the weights of published names.

openpi's names are the reference; what each is called here is `our_name`.
"""

from dataclasses import replace

import torch
from torch import Tensor

from selfalign.model import flow
from selfalign.model.config import ModelConfig, StackConfig, TTTConfig, VisionConfig
from selfalign.model.folded_path import FoldedPath
from selfalign.model.plain_path import Denoiser, PlainPath
from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix
from selfalign.model.weights import FastWeights
from tests.parity.seeded import Geometry, Inputs, weight

_EXPERT = "paligemma_with_expert."
_NAMES = {
    f"{_EXPERT}paligemma.model.vision_tower.vision_model.": "vision.tower.",
    f"{_EXPERT}paligemma.model.multi_modal_projector.linear.": "vision.projector.",
    f"{_EXPERT}paligemma.model.language_model.": "language.",
    f"{_EXPERT}paligemma.lm_head.": "embed_tokens.",
    f"{_EXPERT}gemma_expert.model.": "action.",
}
# What only our model has: it must not change what the policy does.
_OWN = ("w0_", "vision.readout.", "alignment.", ".ttt.")


def published_name(ours: str) -> str | None:
    """The name of our tensor in an openpi file; None for what openpi has not."""
    if any(part in ours for part in _OWN):
        return None
    for theirs, start in _NAMES.items():
        if ours.startswith(start):
            return theirs + ours.removeprefix(start)
    return ours


def seeded_policy(geometry: Geometry, flavour: str, clock: flow.Clock = "even") -> Policy:
    """Our policy with seeded weights. Its TTT layers are there with closed gates, W is random."""
    config = small_config(geometry, flavour).model_copy(update={"flow_clock": clock})
    policy = Policy(config).freeze()
    with torch.no_grad():
        for name, tensor in policy.state_dict().items():
            theirs = published_name(name)
            if theirs is not None and not (flavour == "pi05" and name.startswith("state_proj")):
                tensor.copy_(torch.from_numpy(weight(theirs, tuple(tensor.shape))))
    return policy


def published_weights(policy: Policy) -> dict[str, Tensor]:
    """The tensors that openpi has too, by openpi's names; shared, not copied."""
    named = {published_name(name): tensor for name, tensor in policy.state_dict().items()}
    # openpi's pi0.5 has its state in the prompt.
    own = "state_proj." if policy.config.flavour == "pi05" else None
    return {
        name: tensor
        for name, tensor in named.items()
        if name is not None and not (own and name.startswith(own))
    }


def small_config(geometry: Geometry, flavour: str) -> ModelConfig:
    """The configuration of a geometry, in openpi's conventions."""
    g = geometry

    def stack(width: int, mlp_dim: int, depth: int) -> StackConfig:
        return StackConfig(
            width=width,
            depth=depth,
            mlp_dim=mlp_dim,
            heads=g.heads,
            kv_heads=g.kv_heads,
            head_dim=g.head_dim,
        )

    return ModelConfig.model_validate(
        {
            "variant": "parity",
            "flavour": flavour,
            "vision": VisionConfig(
                image_size=g.image_size,
                patch_size=g.patch_size,
                width=g.vision_width,
                depth=g.vision_depth,
                heads=g.vision_heads,
                mlp_dim=g.vision_mlp,
            ),
            "language": stack(g.language_width, g.language_mlp, g.depth),
            "action": stack(g.action_width, g.action_mlp, g.depth),
            "alignment": stack(g.action_width, g.action_mlp, 1),
            "ttt": TTTConfig(heads=4, gate_init=0.0, w_std=1.0),
            "state_dim": g.action_dim,
            "action_dim": g.action_dim,
            "horizon": g.horizon,
            "vocab_size": g.vocab_size,
            "max_prompt_tokens": g.prompt_tokens,
            "feature_dim": 4,
        }
    )


def prefix_of(policy: Policy, given: Inputs) -> Prefix:
    """Our prefix of the seeded observations."""
    return policy.prefix(*prefix_arguments(given))


def prefix_arguments(given: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and prompts as a policy takes them."""
    return (
        torch.from_numpy(given.images),
        torch.from_numpy(given.image_mask),
        torch.from_numpy(given.tokens),
        torch.from_numpy(given.token_mask),
    )


class Way:
    """One of our three ways to compute the same: stock modules, any size fast, small and folded."""

    def __init__(self, policy: Policy, name: str) -> None:
        self.policy, self.name = policy, name
        paths = {"plain": PlainPath, "folded": FoldedPath}
        self._path = paths[name](policy) if name in paths else None

    def prefix(self, given: Inputs) -> Prefix:
        """The prefix of the seeded observations."""
        arguments = prefix_arguments(given)
        if self._path is not None:
            return self._path.prefix(*arguments)
        # Asking for a gradient keeps the policy from its fast paths.
        with torch.enable_grad():
            found = self.policy.prefix(arguments[0].requires_grad_(), *arguments[1:])
        return replace(
            found, key_values=found.key_values.detach(), features=found.features.detach()
        )

    def denoiser(self, prefix: Prefix, state: Tensor, w: FastWeights) -> Denoiser:
        """That of a fast path."""
        assert self._path is not None
        return self._path.denoiser(prefix, state, w)

    def velocity(self, prefix: Prefix, state: Tensor, x_t: Tensor, time: float) -> Tensor:
        """The velocity at one time for the whole batch."""
        if self._path is not None:
            return self.denoiser(prefix, state, self.policy.base_w())(x_t, time)
        clock = torch.full((len(x_t),), time)
        return self.policy.predict(prefix, state, x_t, clock, self.policy.base_w())


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference."""
    assert ours.shape == theirs.shape
    return float((ours.double() - theirs.double()).abs().max())

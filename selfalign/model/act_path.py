"""How a frozen policy makes a chunk fast: what every denoising step shares is computed once.

Prefix keys and values are copied once a chunk into buffers with room for the tokens of the action
expert; each step writes its own keys and values at their end. What depends on the time alone is
computed once a model, for the fixed times of the sampler. No gradients: `Policy.predict` has them.

Shape key: B batch, P prefix tokens, T tokens of the action expert, K = P + T, L layers, v key-value
heads, e head width, H horizon, A action numbers, D action width.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor
from torch.nn import functional as F

from selfalign.model import flow
from selfalign.model.folded import FoldedStack, mirror, mirrored, rms_norm
from selfalign.model.folded_vision import FoldedVision
from selfalign.model.prefix import Prefix
from selfalign.model.weights import FastWeights

if TYPE_CHECKING:
    from selfalign.model.policy import Policy

Denoiser = Callable[[Tensor, float], Tensor]

# Above these sizes arithmetic outweighs calls: copies of weights would only cost memory.
_SMALL_WIDTH, _SMALL_BATCH = 256, 8


@final
class ActPath:
    """Chooses how a policy makes chunks, and keeps what it prepared while the weights stay."""

    def __init__(self, policy: "Policy") -> None:
        config = policy.config
        self._policy = policy
        self._parameters = list(policy.parameters())
        self._small = (
            config.flavour == "pi0"
            and not config.ttt.inner_step
            and max(config.language.width, config.action.width) <= _SMALL_WIDTH
        )
        self._folded: FoldedPath | None = None
        self._seen: tuple[object, ...] = ()

    def folded(self, batch: int) -> "FoldedPath | None":
        """The path of a small model, or None where the stock modules are as fast."""
        policy = self._policy
        if not self._small or batch > _SMALL_BATCH or policy.dtype != torch.float32:
            return None
        seen = (
            policy.device,
            tuple(policy.action.ttt_rows),
            [parameter._version for parameter in self._parameters],
        )
        if self._folded is None or seen != self._seen:
            with torch.inference_mode(False), torch.no_grad():
                self._folded, self._seen = FoldedPath(policy), seen
        return self._folded


def own_mask(tokens: int, *, stateful: bool, device: torch.device) -> Tensor:
    """True where a token of the action expert may read another: bool [T, T].

    Actions read everything; the state token of pi0, which comes first, reads only itself.
    """
    mask = torch.ones(tokens, tokens, dtype=torch.bool, device=device)
    if stateful:
        mask[0, 1:] = False
    return mask


@final
class FoldedPath:
    """The path of a small float32 model of the pi0 flavour without inner step."""

    def __init__(self, policy: "Policy") -> None:
        config = policy.config
        self.config = config
        self.policy = policy
        self.vision = FoldedVision(policy.vision)
        self.language = FoldedStack(policy.language)
        self.action = FoldedStack(policy.action)
        # The first layer of the time MLP is linear in actions and time: fold it into both.
        of_action, of_time = (x.clone() for x in policy.action_time_mlp_in.weight.chunk(2, dim=1))
        self._in = (of_action @ policy.action_in_proj.weight.clone()).t().contiguous()
        bias = policy.action_time_mlp_in.bias + of_action @ policy.action_in_proj.bias.clone()
        self._of_time, self._in_bias = of_time, bias
        self._mid = mirrored(policy.action_time_mlp_out.weight)
        self._mid_bias = mirror(policy.action_time_mlp_out.bias)
        head = policy.action_out_proj.weight * self.action.norm_scale_D
        self._head = head.t().contiguous()
        self._times = {t: self._time_bias(t) for t in flow.times(config.flow_steps)}

    def prefix(
        self, images_BN3SS: Tensor, image_mask_BN: Tensor, tokens_Bt: Tensor, token_mask_Bt: Tensor
    ) -> Prefix:
        """As `Policy.prefix`."""
        config = self.config.language
        batch, cameras = image_mask_BN.shape
        image_tokens, features = self.vision(images_BN3SS.flatten(0, 1))
        image_tokens = image_tokens.view(batch, -1, config.width)
        language = self.policy.embed_tokens(tokens_Bt) * config.width**0.5
        x = torch.cat([image_tokens, language], dim=1)
        per_camera = self.config.vision.tokens
        mask = torch.cat([image_mask_BN.repeat_interleave(per_camera, dim=1), token_mask_Bt], dim=1)
        positions = mask.cumsum(-1).sub(1).clamp_min(0)
        shape = (batch, config.depth, 2, config.kv_heads, x.shape[1], config.head_dim)
        key_values = x.new_empty(shape)
        self.language.fill(
            mirror(x.view(-1, config.width)),
            self.language.rotary(positions),
            self.language.bias(mask[:, None].expand(-1, x.shape[1], -1)),
            list(key_values.unbind(1)),
        )
        return Prefix(
            key_values,
            mask,
            cameras * per_camera,
            features.view(batch, cameras, -1),
            image_mask_BN,
        )

    def denoiser(self, prefix: Prefix, state_Bs: Tensor, w: FastWeights) -> Denoiser:
        """The action expert over one prefix, with one W."""
        horizon, batch = self.config.horizon, len(prefix)
        tokens = 1 + horizon
        stack, policy = self.action, self.policy
        state_B1D = mirror(policy.state_proj(state_Bs))[:, None]
        cache = list(with_room(prefix, tokens).unbind(1))
        steps = torch.arange(tokens, device=state_Bs.device)
        rotary = stack.rotary(prefix.lengths[:, None] + steps)
        own = own_mask(tokens, stateful=True, device=state_Bs.device).expand(batch, -1, -1)
        bias = stack.bias(torch.cat([prefix.mask[:, None].expand(-1, tokens, -1), own], dim=2))
        folded = stack.fold(w)

        def denoise(x_BHA: Tensor, time: float) -> Tensor:
            x = self._embed(x_BHA, time).view(batch, horizon, -1)
            x = torch.cat([state_B1D, x], dim=1).view(batch * tokens, -1)
            x = stack.run(x, rotary, bias, cache, folded).view(batch, tokens, -1)
            x = rms_norm(x[:, 1:], stack.layers[0].eps)
            out = torch.addmm(
                policy.action_out_proj.bias, x.reshape(batch * horizon, -1), self._head
            )
            return out.view(batch, horizon, -1)

        return denoise

    def _embed(self, x_BHA: Tensor, time: float) -> Tensor:
        """Action tokens as a stream [B * H, 2 D]."""
        bias = self._times.get(time)
        bias = self._time_bias(time) if bias is None else bias
        hidden = F.silu(torch.addmm(bias, x_BHA.reshape(-1, x_BHA.shape[-1]), self._in))
        return torch.addmm(self._mid_bias, hidden, self._mid)

    def _time_bias(self, time: float) -> Tensor:
        config = self.config
        at = torch.tensor([time], device=self._in.device)
        embedded = flow.time_embedding(
            at, config.action.width, config.min_period, config.max_period
        )
        return self._in_bias + self._of_time @ embedded[0]


def with_room(prefix: Prefix, tokens: int) -> Tensor:
    """Keys and values of the prefix and room for more tokens: [B, L, 2, v, P + tokens, e]."""
    *shape, length, dim = prefix.key_values.shape
    out = prefix.key_values.new_empty(*shape, length + tokens, dim)
    out[..., :length, :].copy_(prefix.key_values)
    return out

"""The act path of a small float32 model, out of folded blocks (folded.py).

Shape key: B batch, N cameras, S image side, t prompt tokens, H horizon, A action numbers, s state
numbers, D action width.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor
from torch.nn import functional as F

from selfalign.model.folded import FoldedStack, FoldedW, Rotary, mirror, mirrored, rms_norm
from selfalign.model.folded_vision import FoldedVision
from selfalign.model.plain_path import Denoiser, own_mask, with_room
from selfalign.model.prefix import Prefix, padded, token_mask_and_positions
from selfalign.model.weights import FastWeights

if TYPE_CHECKING:
    from selfalign.model.policy import Policy


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
        # What `compile_parts` replaces, and the length that prompts are then padded to.
        self.see: Callable[[Tensor], tuple[Tensor, Tensor]] = self.vision.__call__
        self.fill: Callable[[Tensor, Rotary, Tensor, list[Tensor]], None] = self.language.fill
        self.run: Callable[[Tensor, Rotary, Tensor, list[Tensor], list[FoldedW]], Tensor] = (
            self.action.run
        )
        self.prompt_tokens = 0
        # The first layer of the time MLP is linear in actions and time: fold it into both.
        of_action, of_time = (x.clone() for x in policy.action_time_mlp_in.weight.chunk(2, dim=1))
        self._in = (of_action @ policy.action_in_proj.weight.clone()).t().contiguous()
        bias = policy.action_time_mlp_in.bias + of_action @ policy.action_in_proj.bias.clone()
        self._of_time, self._in_bias = of_time, bias
        self._mid = mirrored(policy.action_time_mlp_out.weight)
        self._mid_bias = mirror(policy.action_time_mlp_out.bias)
        head = policy.action_out_proj.weight * self.action.norm_scale_D
        self._head = head.t().contiguous()
        self._times = {t: self._time_bias(t) for t in config.flow_times}

    def prefix(
        self, images_BN3SS: Tensor, image_mask_BN: Tensor, tokens_Bt: Tensor, token_mask_Bt: Tensor
    ) -> Prefix:
        """As `Policy.prefix`. A compiled path pads the prompt: its length is part of the shapes."""
        tokens_Bt, token_mask_Bt = padded(tokens_Bt, token_mask_Bt, self.prompt_tokens)
        config = self.config.language
        batch, cameras = image_mask_BN.shape
        image_tokens, features = self.see(images_BN3SS.flatten(0, 1))
        x = self.policy.prefix_tokens(image_tokens.view(batch, -1, config.width), tokens_Bt)
        per_camera = self.config.vision.tokens
        mask, positions = token_mask_and_positions(image_mask_BN, token_mask_Bt, per_camera)
        shape = (batch, config.depth, 2, config.kv_heads, x.shape[1], config.head_dim)
        key_values = x.new_empty(shape)
        self.fill(
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
        cache = list(with_room(prefix, tokens, torch.float32).unbind(1))
        steps = torch.arange(tokens, device=state_Bs.device)
        rotary = stack.rotary(prefix.lengths[:, None] + steps)
        own = own_mask(tokens, stateful=True, device=state_Bs.device).expand(batch, -1, -1)
        bias = stack.bias(torch.cat([prefix.mask[:, None].expand(-1, tokens, -1), own], dim=2))
        folded = stack.fold(w)

        def denoise(x_BHA: Tensor, time: float) -> Tensor:
            x = self._embed(x_BHA, time).view(batch, horizon, -1)
            x = torch.cat([state_B1D, x], dim=1).view(batch * tokens, -1)
            x = self.run(x, rotary, bias, cache, folded).view(batch, tokens, -1)
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
        embedded = self.policy.embed_time(torch.tensor([time], device=self._in.device))
        return self._in_bias + self._of_time @ embedded[0]

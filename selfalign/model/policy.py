"""The three-expert policy: frozen prefix, action expert with W as an argument, alignment expert.

Shape key: B batch, N cameras, S image side, P prefix tokens, t prompt tokens, H horizon, A action
numbers, s state numbers, k stride, D action width.
"""

from typing import cast, final

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from selfalign.errors import ModelError
from selfalign.model import flow
from selfalign.model.act_path import ActPath
from selfalign.model.alignment import AlignmentExpert, AlignmentPrediction
from selfalign.model.config import ModelConfig
from selfalign.model.folded_path import FoldedPath
from selfalign.model.gemma import GemmaLayer, GemmaStack
from selfalign.model.hashing import sha256_of
from selfalign.model.identity import identity_text
from selfalign.model.plain_path import Denoiser, PlainPath, own_mask
from selfalign.model.prefix import Features, Inputs, Prefix, token_mask_and_positions
from selfalign.model.processing import Processing
from selfalign.model.static_call import Recorder
from selfalign.model.tokenizer import PromptEncoder, small_tokenizer
from selfalign.model.vision import VisionTower
from selfalign.model.weights import FastWeights


@final
class Policy(nn.Module):
    """A policy of the pi0 / pi0.5 family whose action expert takes W as an argument."""

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer | None = None,
        processing: Processing | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.prompts = PromptEncoder(tokenizer or small_tokenizer(), config.max_prompt_tokens)
        self.processing = processing
        if self.prompts.tokenizer.get_vocab_size() > config.vocab_size:
            raise ModelError(
                f"the tokenizer has {self.prompts.tokenizer.get_vocab_size()} entries, the model "
                f"embeds {config.vocab_size}"
            )
        width = config.action.width
        adaptive = config.flavour == "pi05"
        self.vision = VisionTower(config.vision, config.language.width, config.feature_dim)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.language.width)
        nn.init.normal_(self.embed_tokens.weight, std=config.language.width**-0.5)
        self.language = GemmaStack(config.language)
        self.action = GemmaStack(
            config.action,
            ttt=config.ttt,
            ttt_layers=config.ttt_layers,
            condition_width=width if adaptive else None,
        )
        self.action_in_proj = nn.Linear(config.action_dim, width)
        self.action_out_proj = nn.Linear(width, config.action_dim)
        self.state_proj = nn.Linear(config.state_dim, width)
        if adaptive:
            self.time_mlp_in = nn.Linear(width, width)
            self.time_mlp_out = nn.Linear(width, width)
        else:
            self.action_time_mlp_in = nn.Linear(2 * width, width)
            self.action_time_mlp_out = nn.Linear(width, width)
        self.alignment = AlignmentExpert(config)
        dim = config.ttt_head_dim
        rows = len(config.ttt_layers)
        self.w0_W1 = nn.Parameter(torch.randn(rows, config.ttt.heads, dim, dim) * config.ttt.w_std)
        self.w0_b1 = nn.Parameter(torch.zeros(rows, config.ttt.heads, 1, dim))
        self._base_sha256: str | None = None
        self._act_path: ActPath | None = None
        self._compile = False
        self._record: Recorder | None = None

    @property
    def processing(self) -> Processing | None:
        """How numbers, images and prompts are made; None where nothing says so."""
        return self._processing

    @processing.setter
    def processing(self, processing: Processing | None) -> None:
        self._processing = processing
        self.prompts.cleaned = processing is None or processing.source == "openpi"

    def live_w0(self) -> FastWeights:
        """W0 as the parameters themselves, for stage 1, which trains them."""
        return FastWeights(self.w0_W1, self.w0_b1, self.config.ttt_layers)

    def base_w(self) -> FastWeights:
        """A copy of W0, the W that every robot starts from."""
        return self.live_w0().detach()

    def freeze(self, base_sha256: str | None = None) -> "Policy":
        """End training: no gradients, evaluation mode, and the identity of the frozen model.

        The identity is computed from the weights unless the caller knows that of their file.
        """
        self.requires_grad_(False).eval()
        frozen = {k: v for k, v in self.state_dict().items() if not k.startswith("w0_")}
        self._act_path = None
        self._base_sha256 = base_sha256 or sha256_of(
            frozen, identity_text(self.config, self.processing)
        )
        return self

    @property
    def base_sha256(self) -> str:
        """SHA-256 over everything that is not W. Raises ModelError before `freeze`."""
        if self._base_sha256 is None:
            raise ModelError("the policy is still in training; call freeze() before its identity")
        return self._base_sha256

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where inputs must be."""
        return self.w0_W1.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the stacks; embeddings and heads may have more, W is float32 always."""
        layer = cast("GemmaLayer", self.language.layers[0])
        return layer.self_attn.q_proj.weight.dtype

    def num_parameters(self) -> dict[str, int]:
        """Parameter counts by part: vision, language, action, ttt, alignment, heads, w."""
        counts = dict.fromkeys(
            ("vision", "language", "action", "ttt", "alignment", "heads", "w"), 0
        )
        for name, parameter in self.named_parameters():
            counts[_part(name)] += parameter.numel()
        return counts

    def set_gradient_checkpointing(self, enabled: bool) -> None:  # noqa: FBT001
        """Trade compute for memory in the action and alignment experts."""
        self.action.gradient_checkpointing = enabled
        self.alignment.expert.gradient_checkpointing = enabled

    def use_eager_attention(self, enabled: bool) -> None:  # noqa: FBT001
        """Plain attention in every stack: faster to train on a CPU, slower to run."""
        for stack in (self.language, self.action, self.alignment.expert):
            stack.use_eager_attention(enabled)
        self.vision.tower.set_attn_implementation("eager" if enabled else "sdpa")

    def compile_act_path(self, enabled: bool = True) -> None:  # noqa: FBT001, FBT002
        """Pass single chunks through torch.compile, which takes a minute at the first one.

        W, observations and times are inputs of what is compiled. Without a compiler the log says
        so and everything runs as before.
        """
        self._compile, self._act_path = enabled, None

    def record_chunks(self, record: Recorder | None) -> None:
        """Let single chunks be recorded and replayed (`record_cuda_graph`), W being an input."""
        self._record, self._act_path = record, None

    def chunk(self, given: Inputs, w: FastWeights, noise_BHA: Tensor) -> Tensor:
        """A normalised chunk [B, H, A], without gradients: `prefix` and `act` in one."""
        chunk = self._prepared().chunk(given, w, noise_BHA)
        if chunk is not None:
            return chunk
        prefix = self.prefix(given.images, given.image_mask, given.tokens, given.token_mask)
        return self.act(prefix, given.state, w, noise=noise_BHA)

    def prefix(
        self, images_BN3SS: Tensor, image_mask_BN: Tensor, tokens_Bt: Tensor, token_mask_Bt: Tensor
    ) -> Prefix:
        """Encode images and prompt once. Carries gradients only where the caller enables them.

        Images are float in [-1, 1], N at most `max_cameras`; masked cameras and padded prompt
        tokens are computed but never attended to.
        """
        batch, cameras = image_mask_BN.shape
        if cameras > self.config.max_cameras:
            raise ModelError(
                f"{cameras} cameras, but model {self.config.variant!r} takes "
                f"{self.config.max_cameras}"
            )
        path = self._path(batch, images_BN3SS)
        if path is not None:
            return path.prefix(images_BN3SS, image_mask_BN, tokens_Bt, token_mask_Bt)
        image_tokens, features = self.vision(images_BN3SS.flatten(0, 1))
        x = self.prefix_tokens(image_tokens.unflatten(0, (batch, cameras)).flatten(1, 2), tokens_Bt)
        per_camera = self.config.vision.tokens
        mask, positions = token_mask_and_positions(image_mask_BN, token_mask_Bt, per_camera)
        pairs = self.language.key_values(x, positions, mask[:, None].expand(-1, x.shape[1], -1))
        key_values = torch.stack([torch.stack(pair, dim=1) for pair in pairs], dim=1)
        features = features.unflatten(0, (batch, cameras))
        return Prefix(key_values, mask, cameras * per_camera, features, image_mask_BN)

    def prefix_tokens(self, image_tokens_BID: Tensor, tokens_Bt: Tensor) -> Tensor:
        """The embedded prefix [B, P, D]: image tokens, then the scaled prompt."""
        language = self.embed_tokens(tokens_Bt) * self.config.language.width**0.5
        return torch.cat([image_tokens_BID.to(self.dtype), language.to(self.dtype)], dim=1)

    def act(
        self,
        prefix: Prefix,
        state_Bs: Tensor,
        w: FastWeights,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """A normalised chunk [B, H, A] from one W (or G of them, B / G samples each)."""
        config = self.config
        if noise is None:
            shape = (len(prefix), config.horizon, config.action_dim)
            noise = torch.randn(shape, generator=generator, device=state_Bs.device)

        if torch.is_grad_enabled() and (w.W1.requires_grad or self.w0_W1.requires_grad):
            return flow.sample(
                lambda x_t, time_B: self.predict(prefix, state_Bs, x_t, time_B, w),
                noise,
                config.flow_steps,
                config.flow_target,
                config.flow_clock,
            )
        denoise = self.denoiser(prefix, state_Bs, w)
        x = noise
        for time in config.flow_times:
            velocity = flow.to_velocity(denoise(x, time), x, time, config.flow_target)
            x = x - velocity / config.flow_steps
        return x

    def denoiser(self, prefix: Prefix, state_Bs: Tensor, w: FastWeights) -> Denoiser:
        """The numbers of `predict` at one time for the whole batch, faster, without gradients.

        What all steps share is computed here. Use it from one thread.
        """
        path = self._path(len(prefix), prefix.key_values)
        if path is not None:
            return path.denoiser(prefix, state_Bs, w)
        times = torch.ones(len(prefix), device=state_Bs.device)
        return lambda x_t, time: self.predict(prefix, state_Bs, x_t, times * time, w)

    def _path(self, batch: int, like: Tensor) -> FoldedPath | PlainPath | None:
        """The fast path, where no gradient is asked for."""
        if torch.is_grad_enabled() and (like.requires_grad or self.w0_W1.requires_grad):
            return None
        return self.act_path(batch)

    def act_path(self, batch: int) -> FoldedPath | PlainPath:
        """How chunks of a batch of this size are made without gradients."""
        return self._prepared().choose(batch)

    def _prepared(self) -> ActPath:
        if self._act_path is None:
            self._act_path = ActPath(self, compile=self._compile, record=self._record)
        return self._act_path

    def predict(
        self, prefix: Prefix, state_Bs: Tensor, x_t: Tensor, time_B: Tensor, w: FastWeights
    ) -> Tensor:
        """One pass of the action expert over a noisy chunk: what `flow_target` names, [B, H, A].

        The time is one per chunk [B], or one per action [B, H] (model/rtc.py).
        """
        actions, condition = self._embed_actions(x_t, time_B)
        stateful = self.config.flavour == "pi0"
        tokens = torch.cat([self.state_token(state_Bs), actions], 1) if stateful else actions
        n = tokens.shape[1]
        own = own_mask(n, stateful=stateful, device=tokens.device)
        mask = torch.cat(
            [prefix.mask[:, None].expand(-1, n, -1), own.expand(len(prefix), -1, -1)], 2
        )
        positions = prefix.lengths[:, None] + torch.arange(n, device=tokens.device)
        out = self.action(
            tokens, positions, mask, prefix=prefix.layers(), condition_BC=condition, w=w
        ).hidden
        return self.read_actions(out).to(x_t.dtype)

    def state_token(self, state_Bs: Tensor) -> Tensor:
        """pi0's state token [B, 1, D]."""
        return self.state_proj(state_Bs.to(self.state_proj.weight.dtype))[:, None].to(self.dtype)

    def read_actions(self, hidden_BTD: Tensor) -> Tensor:
        """What the network says of the action tokens, which come last: [B, H, A]."""
        head = self.action_out_proj
        out: Tensor = head(hidden_BTD[:, -self.config.horizon :].to(head.weight.dtype))
        return out

    def action_loss(
        self,
        prefix: Prefix,
        state_Bs: Tensor,
        actions_BHA: Tensor,
        w: FastWeights,
        *,
        noise: Tensor,
        time_B: Tensor,
    ) -> Tensor:
        """Squared error of the flow-matching target, not reduced: [B, H, A]."""
        x_t = flow.interpolate(actions_BHA, noise, time_B)
        predicted = self.predict(prefix, state_Bs, x_t, time_B, w)
        target = flow.flow_target(actions_BHA, noise, self.config.flow_target)
        return F.mse_loss(predicted, target, reduction="none")

    def alignment_pass(
        self,
        now: Prefix,
        following: Features,
        state_Bs: Tensor,
        actions_BkA: Tensor,
        w: FastWeights,
    ) -> AlignmentPrediction:
        """The leak-free masked pass over transitions: prefix of t, state, k actions.

        The feature of t + k is read for its change since t alone.
        """
        clean = torch.zeros(len(now), device=state_Bs.device)
        actions, condition = self._embed_actions(actions_BkA, clean)
        change = (following.features - now.features) / self.vision.readout.spread
        change = change * (now.feature_mask & following.feature_mask)[..., None]
        state = self.state_token(state_Bs)[:, 0]
        tokens = self.alignment.tokens(state, actions, change).to(self.dtype)
        own = self.alignment.group_mask(tokens.device).expand(len(now), -1, -1)
        mask = torch.cat([self.alignment.prefix_mask(now), own], dim=2)
        hidden = self.action(
            tokens,
            self.alignment.positions(now),
            mask,
            prefix=now.layers(),
            condition_BC=condition,
            w=w,
        ).hidden
        return self.alignment(hidden)

    def _embed_actions(self, actions: Tensor, time_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """Action tokens [B, n, D] and the condition of adaptive norms (pi0.5) or None (pi0).

        The time is [B], or [B, n]; a condition has the shape of the time and D.
        """
        embedded = self.action_in_proj(actions.to(self.action_in_proj.weight.dtype))
        time = self.embed_time(time_B)
        if self.config.flavour == "pi05":
            return embedded.to(self.dtype), self.time_condition(time)
        if time.dim() == 2:
            time = time[:, None].expand_as(embedded)
        both = torch.cat([embedded, time], dim=-1)
        out = self.action_time_mlp_out(F.silu(self.action_time_mlp_in(both)))
        return out.to(self.dtype), None

    def embed_time(self, time: Tensor) -> Tensor:
        """The embedding of times [...] in the precision of the heads: [..., D]."""
        config = self.config
        embedded = flow.time_embedding(
            time, config.action.width, config.min_period, config.max_period
        )
        return embedded.to(self.action_in_proj.weight.dtype)

    def time_condition(self, embedded: Tensor) -> Tensor:
        """pi0.5's condition of the adaptive norms from embedded times."""
        return F.silu(self.time_mlp_out(F.silu(self.time_mlp_in(embedded))))


def _part(name: str) -> str:
    if name.startswith("w0_"):
        return "w"
    if ".ttt." in name:
        return "ttt"
    if name.startswith("alignment.expert."):
        return "alignment"
    head = name.split(".", 1)[0]
    return {
        "embed_tokens": "language",
        "vision": "vision",
        "language": "language",
        "action": "action",
    }.get(head, "heads")

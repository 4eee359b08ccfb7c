"""transformers' own pi0, built with the same seeded weights: an independent implementation.

Its layout of the prefix differs from ours: image tokens of missing cameras are left out of the
prompt, so that only valid tokens can be compared.

Shape key: B batch, N cameras, P prefix tokens, L layers, v key-value heads, e head width.
"""

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GemmaConfig,
    PaliGemmaConfig,
    PI0Config,
    PI0ForConditionalGeneration,
    SiglipVisionConfig,
)

from selfalign.model.policy import Policy
from tests.parity.published import published_weights
from tests.parity.seeded import Geometry, Inputs, weight

_EXPERT = "paligemma_with_expert."
_NAMES = {
    "model.vlm.vision_tower.": f"{_EXPERT}paligemma.model.vision_tower.vision_model.",
    "model.vlm.multi_modal_projector.": f"{_EXPERT}paligemma.model.multi_modal_projector.",
    "model.vlm.language_model.embed_tokens.": f"{_EXPERT}paligemma.lm_head.",
    "model.vlm.language_model.": f"{_EXPERT}paligemma.model.language_model.",
    "model.dit.": f"{_EXPERT}gemma_expert.model.",
    "embed_action_time.": "",
}


def published_name(name: str) -> str:
    """What openpi calls a tensor of transformers' pi0."""
    for start, theirs in _NAMES.items():
        if name.startswith(start):
            return theirs + name.removeprefix(start)
    return name


def stock_config(g: Geometry) -> PI0Config:
    """The configuration of transformers for a geometry."""
    heads = {
        "num_attention_heads": g.heads,
        "num_key_value_heads": g.kv_heads,
        "head_dim": g.head_dim,
        "num_hidden_layers": g.depth,
        "vocab_size": g.vocab_size,
    }
    language = GemmaConfig(hidden_size=g.language_width, intermediate_size=g.language_mlp, **heads)
    vision = SiglipVisionConfig(
        hidden_size=g.vision_width,
        intermediate_size=g.vision_mlp,
        num_hidden_layers=g.vision_depth,
        num_attention_heads=g.vision_heads,
        image_size=g.image_size,
        patch_size=g.patch_size,
        projection_dim=g.language_width,
        vision_use_head=False,
    )
    return PI0Config(
        vlm_config=PaliGemmaConfig(
            text_config=language,
            vision_config=vision,
            projection_dim=g.language_width,
            image_token_id=g.vocab_size,
        ),
        dit_config=GemmaConfig(hidden_size=g.action_width, intermediate_size=g.action_mlp, **heads),
        chunk_size=g.horizon,
        max_state_dim=g.action_dim,
        max_action_dim=g.action_dim,
        loss_reduction="none",
    )


def stock_model(
    geometry: Geometry, *, exact_time: bool, weights_of: Policy | None = None
) -> PI0ForConditionalGeneration:
    """Transformers' pi0 with seeded weights, or with those of a policy, shared in memory.

    `exact_time` gives its time embedding float64 frequencies. As it ships it computes them in
    float32, unlike openpi and us: at a period of 4e-3 this alone moves the embedding by 1e-4.
    """
    model = PI0ForConditionalGeneration(stock_config(geometry)).eval()
    named = {} if weights_of is None else published_weights(weights_of)
    for name, parameter in model.named_parameters():
        theirs = published_name(name)
        # A Gemma model brings an embedding, which an action expert never reads.
        if not name.startswith("model.dit.embed_tokens."):
            parameter.data = (
                named[theirs] if named else torch.from_numpy(weight(theirs, tuple(parameter.shape)))
            )
    if exact_time:
        fraction = torch.linspace(0, 1, geometry.action_width // 2, dtype=torch.float64)
        period = 4e-3 * 1e3**fraction
        model.embed_action_time.sinusoid_embeds.sinusoid_freq = 2 * torch.pi / period
    return model


def stock_arguments(geometry: Geometry, given: Inputs) -> dict[str, Tensor]:
    """The seeded observations as transformers takes them."""
    rows = []
    width = 3 * geometry.image_tokens + geometry.prompt_tokens
    for cameras, tokens, mask in zip(given.image_mask, given.tokens, given.token_mask, strict=True):
        images = [geometry.vocab_size] * (int(cameras.sum()) * geometry.image_tokens)
        rows.append([*images, *tokens[mask].tolist()])
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    valid = torch.zeros(len(rows), width, dtype=torch.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        valid[index, : len(row)] = 1
    return {
        "input_ids": ids,
        "attention_mask": valid,
        "pixel_values": torch.from_numpy(given.images),
        "pixel_attention_mask": torch.from_numpy(given.image_mask),
        "state": torch.from_numpy(given.state),
    }


def stock_prefix(model: PI0ForConditionalGeneration, arguments: dict[str, Tensor]) -> Tensor:
    """Keys and values [B, L, 2, v, P, e] of the prefix, as `sample_actions` computes them."""
    valid = arguments["attention_mask"]
    embedded = model.model.embed_prefix(
        arguments["input_ids"], arguments["pixel_values"], arguments["pixel_attention_mask"]
    )
    cache: DynamicCache = model.model.vlm(
        inputs_embeds=embedded,
        attention_mask=valid,
        position_ids=valid.cumsum(-1) - 1,
        token_type_ids=torch.zeros_like(valid),
        use_cache=True,
    ).past_key_values
    pairs = [torch.stack([layer.keys, layer.values], dim=1) for layer in cache.layers]
    return torch.stack(pairs, dim=1)

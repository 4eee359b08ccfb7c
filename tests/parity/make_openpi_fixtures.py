"""Write openpi_pi0* and openpi_pi05*: what openpi's own modules compute from seeded weights.

Made from github.com/Physical-Intelligence/openpi at commit
15a9616a00943ada6c20a0f158e3adb39df2ccac. Weights and inputs come from seeded.py, so only results
are stored. openpi's sizes are shrunk from outside, nothing of it is copied or edited:

python3.11 -m venv /tmp/openpi
/tmp/openpi/bin/pip install torch transformers==4.53.2 "jax<0.7" "flax<0.11" einops safetensors \
    jaxtyping==0.2.36 beartype==0.19.0
cp -r OPENPI/src/openpi/models_pytorch/transformers_replace/* \
    /tmp/openpi/lib/python3.11/site-packages/transformers/
/tmp/openpi/bin/python tests/parity/make_openpi_fixtures.py OPENPI
"""

import functools
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file, save_model
from seeded import Geometry, Inputs, inputs, weight

HERE = Path(__file__).parent
# Positions of the ten steps at which the velocity is stored.
STEPS = (1.0, 0.7, 0.1, 0.001)


def shrink(geometry: Geometry) -> Any:
    """Make openpi build small models. Returns its module `pi0_pytorch`."""
    import openpi.models.gemma as variants
    import openpi.models_pytorch.gemma_pytorch as experts
    import openpi.models_pytorch.pi0_pytorch as pi0
    import openpi.models_pytorch.preprocessing_pytorch as preprocessing

    g = geometry

    def variant(name: str) -> Any:
        width, mlp = (
            (g.language_width, g.language_mlp) if name == "vlm" else (g.action_width, g.action_mlp)
        )
        return variants.Config(
            width=width,
            depth=g.depth,
            mlp_dim=mlp,
            num_heads=g.heads,
            num_kv_heads=g.kv_heads,
            head_dim=g.head_dim,
        )

    def small_paligemma(config: Any) -> Any:
        config.text_config.vocab_size = g.vocab_size
        vision = config.vision_config
        vision.hidden_size, vision.intermediate_size = g.vision_width, g.vision_mlp
        vision.num_hidden_layers, vision.num_attention_heads = g.vision_depth, g.vision_heads
        vision.image_size, vision.patch_size = g.image_size, g.patch_size
        vision.projection_dim = g.language_width
        return paligemma(config=config)

    def small_expert(config: Any) -> Any:
        config.vocab_size = g.vocab_size
        return expert(config=config)

    side = (g.image_size, g.image_size)
    unchanged = preprocessing.preprocess_observation_pytorch
    paligemma, expert = experts.PaliGemmaForConditionalGeneration, experts.GemmaForCausalLM
    variants.get_config = variant
    experts.PaliGemmaForConditionalGeneration = small_paligemma
    experts.GemmaForCausalLM = small_expert
    # Without training's random changes of the images: the loss is a function of its arguments.
    preprocessing.preprocess_observation_pytorch = lambda observation, train: functools.partial(
        unchanged, image_resolution=side
    )(observation, train=False)
    return pi0


def build(pi0: Any, geometry: Geometry, *, pi05: bool) -> Any:
    """openpi's model with seeded weights, in float32."""
    config = SimpleNamespace(
        pi05=pi05,
        paligemma_variant="vlm",
        action_expert_variant="expert",
        dtype="float32",
        action_dim=geometry.action_dim,
        action_horizon=geometry.horizon,
        pytorch_compile_mode=None,
    )
    model = pi0.PI0Pytorch(config).eval()
    torch.set_float32_matmul_precision("highest")
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            named = name.replace("model.language_model.embed_tokens", "lm_head")
            tensor.copy_(torch.from_numpy(weight(named, tuple(tensor.shape))))
    return model


def observation_of(given: Inputs) -> Any:
    """The seeded observations as openpi takes them."""
    names = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
    images, masks = torch.from_numpy(given.images), torch.from_numpy(given.image_mask)
    return SimpleNamespace(
        images={name: images[:, slot] for slot, name in enumerate(names)},
        image_masks={name: masks[:, slot] for slot, name in enumerate(names)},
        state=torch.from_numpy(given.state),
        tokenized_prompt=torch.from_numpy(given.tokens),
        tokenized_prompt_mask=torch.from_numpy(given.token_mask),
        token_ar_mask=None,
        token_loss_mask=None,
    )


@torch.no_grad()
def results(pi0: Any, model: Any, given: Inputs) -> dict[str, torch.Tensor]:
    """Prefix keys and values, velocities, the chunk and the training loss."""
    observation, noise = observation_of(given), torch.from_numpy(given.noise)
    images, image_masks, tokens, token_masks, state = model._preprocess_observation(
        observation, train=False
    )
    embedded, valid, causal = model.embed_prefix(images, image_masks, tokens, token_masks)
    mask = model._prepare_attention_masks_4d(pi0.make_att_2d_masks(valid, causal))
    model.paligemma_with_expert.paligemma.language_model.config._attn_implementation = "eager"
    _, cache = model.paligemma_with_expert.forward(
        attention_mask=mask,
        position_ids=torch.cumsum(valid, dim=1) - 1,
        past_key_values=None,
        inputs_embeds=[embedded, None],
        use_cache=True,
    )
    pairs = [torch.stack([cache[i][0], cache[i][1]], 1) for i in range(len(cache))]
    out = {"embedded": embedded, "key_values": torch.stack(pairs, 1), "valid": valid}
    for time in STEPS:
        times = torch.full((len(noise),), time)
        out[f"velocity_{time}"] = model.denoise_step(state, valid, cache, noise, times)
    out["chunk"] = model.sample_actions("cpu", observation, noise=noise, num_steps=10)
    actions, times = torch.from_numpy(given.actions), torch.from_numpy(given.time)
    out["loss"] = model.forward(observation, actions, noise=noise, time=times)
    return {name: tensor.contiguous() for name, tensor in out.items()}


def published(model: Any) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the checkpoint that openpi writes of a model."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.safetensors"
        save_model(model, path)  # as openpi's trainer and converter do
        return {name: tuple(tensor.shape) for name, tensor in load_file(path).items()}


def main(openpi: Path) -> None:
    """Write the files beside this script."""
    sys.path[:0] = [str(openpi / "src"), str(openpi / "packages/openpi-client/src")]
    geometry = Geometry()
    pi0, given = shrink(geometry), inputs(geometry)
    for flavour in ("pi0", "pi05"):
        model = build(pi0, geometry, pi05=flavour == "pi05")
        save_file(results(pi0, model, given), HERE / f"openpi_{flavour}.safetensors")
        text = json.dumps(published(model), indent=0, sort_keys=True)
        (HERE / f"openpi_{flavour}_keys.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

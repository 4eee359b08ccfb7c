"""Write openpi_processing.safetensors, openpi_prompts.json and pieces.model: by openpi's own code.

Made from github.com/Physical-Intelligence/openpi at commit
15a9616a00943ada6c20a0f158e3adb39df2ccac, in the environment of make_openpi_fixtures.py with
numpydantic, sentencepiece, orbax-checkpoint, tqdm-loggable and openpi-client besides:

/tmp/openpi/bin/python tests/parity/make_openpi_processing.py OPENPI
"""

import io
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import samples
import sentencepiece
import torch
from safetensors.numpy import save_file

HERE = Path(__file__).parent


def write_pieces() -> None:
    """A SentencePiece model with the switches and special tokens of PaliGemma's, and few pieces."""
    words = "pick up the red cube fold towel now open drawer Task State Action 12 255 78 robot arm"
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([words, words.upper(), "a, b; c: d.\n\n"] * 20),
        model_writer=out,
        model_type="bpe",
        vocab_size=360,
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=["\n", "\n\n"],
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        hard_vocab_limit=False,
    )
    (HERE / "pieces.model").write_bytes(out.getvalue())


def numbers(transforms: Any, normalize: Any) -> dict[str, np.ndarray]:
    """Normalisation both ways, delta actions, and the two joined as in a policy."""
    stats = {
        name: normalize.NormStats(
            **{key: np.array(values[key]) for key in ("mean", "std", "q01", "q99")}
        )
        for name, values in (
            ("state", samples.STATISTICS["state"]),
            ("actions", samples.STATISTICS["action"]),
        )
    }
    out = {}
    chunk = (4, samples.HORIZON)
    for method, quantiles in (("z_score", False), ("quantile", True)):
        forth = transforms.Normalize(stats, use_quantiles=quantiles)
        back = transforms.Unnormalize(stats, use_quantiles=quantiles)
        delta, absolute = (
            transforms.DeltaActions(samples.DELTA),
            transforms.AbsoluteActions(samples.DELTA),
        )
        pad = transforms.PadStatesAndActions(samples.WIDTH)
        data = {"state": samples.raw("state", 4), "actions": samples.raw("action", *chunk)}
        plain = forth(dict(data))
        out[f"{method}.state"] = plain["state"]
        out[f"{method}.actions"] = plain["actions"]
        joined = pad(forth(delta({"state": data["state"], "actions": data["actions"].copy()})))
        out[f"{method}.delta"] = joined["actions"]
        made = {"state": joined["state"], "actions": samples.normalised(*chunk)}
        raw = back(dict(made))
        out[f"{method}.back"] = np.array(raw["actions"])
        out[f"{method}.absolute"] = absolute(raw)["actions"][..., : samples.ACTIONS]
    moved = transforms.DeltaActions(samples.DELTA)(
        {"state": samples.raw("state", 4), "actions": samples.raw("action", *chunk)}
    )
    out["relative"] = moved["actions"]
    return out


def images(transforms: Any, image_tools: Any) -> dict[str, np.ndarray]:
    """The bytes that openpi serves: ResizeImages is PIL. Says how far its other two are away."""
    side, out = samples.IMAGE_SIDE, {}
    for shape in samples.IMAGE_SHAPES:
        name, picture = f"{shape[0]}x{shape[1]}", samples.image(shape)
        served = transforms.ResizeImages(side, side)({"image": {"a": picture}})["image"]["a"]
        out[f"image.{name}"] = np.asarray(served)
        traced = image_tools.resize_with_pad_torch(torch.from_numpy(picture)[None], side, side)
        jitted = np.asarray(image_tools.resize_with_pad(picture, side, side)).astype(int)
        apart = [
            np.abs(other.reshape(served.shape).astype(int) - served).max()
            for other in (traced.numpy(), jitted)
        ]
        print(f"{name}: bytes apart from PIL's: torch {apart[0]}, jax {apart[1]}")
    return out


def prompts() -> list[dict[str, Any]]:
    """Token ids by openpi's tokenizer, on our small SentencePiece file."""
    from openpi.models import tokenizer as module

    module.download = SimpleNamespace(maybe_download=lambda *_, **__: HERE / "pieces.model")
    tokenizer, rows = module.PaligemmaTokenizer(max_len=150), []
    for text in samples.TEXTS:
        for state in (None, *samples.PROMPT_STATES):
            tokens, mask = tokenizer.tokenize(text, None if state is None else np.array(state))
            rows.append({"text": text, "state": state, "ids": tokens[mask].tolist()})
    return rows


def main(openpi: Path) -> None:
    """Write the files beside this script."""
    sys.path[:0] = [str(openpi / "src"), str(openpi / "packages/openpi-client/src")]
    from openpi.models import utils

    # Only pi0-FAST reads it, and it needs more packages.
    utils.fsq_tokenizer = ModuleType("fsq_tokenizer")
    sys.modules["openpi.models.utils.fsq_tokenizer"] = utils.fsq_tokenizer
    from openpi import transforms
    from openpi.shared import image_tools, normalize

    write_pieces()
    found = {**numbers(transforms, normalize), **images(transforms, image_tools)}
    contiguous = {name: np.ascontiguousarray(values) for name, values in found.items()}
    save_file(contiguous, HERE / "openpi_processing.safetensors")
    text = json.dumps(prompts(), ensure_ascii=False)
    (HERE / "openpi_prompts.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Write lerobot_processing.safetensors and lerobot_prompts.json: by LeRobot's own code.

Made from github.com/huggingface/lerobot at commit 7427f31801f944f5ec9ce53cda02862ce7d1638b, in an
environment of Python 3.12 with torch, torchvision, transformers, draccus, datasets, deepdiff,
accelerate, gymnasium, opencv-python-headless and av<16:

python tests/parity/make_lerobot_processing.py LEROBOT
"""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import samples
import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
METHODS = {
    "z_score": "MEAN_STD",
    "quantile": "QUANTILES",
    "quantile10": "QUANTILE10",
    "min_max": "MIN_MAX",
}


def numbers() -> dict[str, torch.Tensor]:
    """Normalisation both ways, relative actions, and the two joined as in a policy."""
    from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.processor.normalize_processor import (
        NormalizerProcessorStep,
        UnnormalizerProcessorStep,
    )
    from lerobot.processor.relative_action_processor import (
        to_absolute_actions,
        to_relative_actions,
    )

    out = {}
    state = torch.from_numpy(samples.raw("state", 4))
    actions = torch.from_numpy(samples.raw("action", 4, samples.HORIZON))
    made = torch.from_numpy(samples.normalised(4, samples.HORIZON))[..., : samples.ACTIONS]
    for method, mode in METHODS.items():
        args = {
            "features": {
                "observation.state": PolicyFeature(FeatureType.STATE, (samples.STATES,)),
                "action": PolicyFeature(FeatureType.ACTION, (samples.ACTIONS,)),
            },
            "norm_map": dict.fromkeys(
                (FeatureType.STATE, FeatureType.ACTION), NormalizationMode[mode]
            ),
            "stats": {
                "observation.state": samples.STATISTICS["state"],
                "action": samples.STATISTICS["action"],
            },
        }
        forth, back = NormalizerProcessorStep(**args), UnnormalizerProcessorStep(**args)
        relative = to_relative_actions(actions, state, samples.DELTA)
        out[f"{method}.state"] = forth._normalize_observation(
            {"observation.state": state}, inverse=False
        )["observation.state"]
        out[f"{method}.actions"] = forth._normalize_action(actions, inverse=False)
        out[f"{method}.delta"] = forth._normalize_action(relative, inverse=False)
        raw = back._normalize_action(made, inverse=True)
        out[f"{method}.back"] = raw
        out[f"{method}.absolute"] = to_absolute_actions(raw, state, samples.DELTA)
    out["relative"] = to_relative_actions(actions, state, samples.DELTA)
    return out


def images() -> dict[str, torch.Tensor]:
    """Floats [S, S, 3] in [-1, 1], as pi0 and pi0.5 make them of bytes."""
    from lerobot.policies.common.vla_utils import resize_with_pad_torch

    side, out = samples.IMAGE_SIDE, {}
    for shape in samples.IMAGE_SHAPES:
        floats = torch.from_numpy(samples.image(shape))[None].float() / 255
        if shape != (side, side):
            floats = resize_with_pad_torch(floats, side, side)
        out[f"image.{shape[0]}x{shape[1]}"] = (floats * 2.0 - 1.0)[0]
    return out


def prompt(text: str, state: tuple[float, ...]) -> str:
    """pi0.5's text by LeRobot's processor step."""
    from lerobot.lerobot_types import TransitionKey
    from lerobot.policies.pi05.processor_pi05 import Pi05PrepareStateTokenizerProcessorStep

    done = Pi05PrepareStateTokenizerProcessorStep()(
        {
            TransitionKey.OBSERVATION: {"observation.state": torch.tensor([state])},
            TransitionKey.COMPLEMENTARY_DATA: {"task": [text]},
        }
    )
    return done[TransitionKey.COMPLEMENTARY_DATA]["task"][0]


def main(lerobot: Path) -> None:
    """Write the files beside this script."""
    sys.path.insert(0, str(lerobot / "src"))
    # These packages import every policy and what each of them needs; two modules are read here.
    for name in ("lerobot.policies", "lerobot.policies.common", "lerobot.policies.pi05"):
        package = ModuleType(name)
        package.__path__ = [str(lerobot / "src" / name.replace(".", "/"))]
        sys.modules[name] = package
    found: dict[str, Any] = {**numbers(), **images()}
    contiguous = {name: values.contiguous() for name, values in found.items()}
    save_file(contiguous, HERE / "lerobot_processing.safetensors")
    rows = [
        {"text": text, "state": state, "prompt": prompt(text, state)}
        for text in samples.TEXTS
        for state in samples.PROMPT_STATES
    ]
    text = json.dumps(rows, ensure_ascii=False)
    (HERE / "lerobot_prompts.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

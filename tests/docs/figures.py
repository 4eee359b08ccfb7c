"""`python -m tests.docs.figures`: sizes and counts in documents, computed from the code.

Rewrites the marked parts of docs/alignment_experts.md and docs/model_card.md. The test holds both
against what this computes, so that neither a change of the model nor a new checkpoint leaves them
behind.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from selfalign.model.checkpoint import load_policy, shipped_model_dir
from selfalign.model.config import ModelConfig, pi0_config, pi05_config, tiny_config
from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix

ROOT = Path(__file__).parents[2]
EXPERTS = ROOT / "docs" / "alignment_experts.md"
CARD = ROOT / "docs" / "model_card.md"
BEGIN, END = "<!-- {}: `python -m tests.docs.figures` writes what follows -->", "<!-- end of {} -->"
# Under the empty prompt only the beginning-of-sequence token remains.
_PROMPT = 1


def with_parts(document: str, parts: dict[str, str]) -> str:
    """A document with its marked parts replaced. Raises ValueError where a mark is missing."""
    for name, text in parts.items():
        head, begin, rest = document.partition(BEGIN.format(name))
        _, end, tail = rest.partition(END.format(name))
        if not begin or not end:
            raise ValueError(f"no part {name!r} between its two marks")
        document = f"{head}{begin}\n\n{text}\n\n{end}{tail}"
    return document


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def millions(count: float) -> str:
    """A count, short."""
    if count < 1e6:
        return f"{count:,.0f}"
    return f"{count / 1e6:,.1f} M" if count < 1e9 else f"{count / 1e9:,.2f} G"


class Geometry:
    """One model without weights, and what a pass through it costs."""

    def __init__(self, config: ModelConfig, *, bytes_per_number: int) -> None:
        self.config = config
        self.bytes_per_number = bytes_per_number
        with torch.device("meta"):
            self.policy = Policy(config)
        # Attention as plain products, which are counted wherever it runs.
        self.policy.use_eager_attention(True)
        self.parts = self.policy.num_parameters()

    @property
    def prefix_tokens(self) -> int:
        """Of one camera and the empty prompt, as alignment reads it."""
        return self.config.vision.tokens + _PROMPT

    @property
    def prefix_bytes(self) -> int:
        """Keys and values of one camera under the empty prompt."""
        language = self.config.language
        numbers = language.depth * 2 * language.kv_heads * language.head_dim
        return self.prefix_tokens * numbers * self.bytes_per_number

    def flops_of_prefix(self) -> int:
        """Of one camera and the empty prompt; counts a product of n numbers as 2n operations."""
        config = self.config
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            images = torch.zeros(1, 1, 3, config.vision.image_size, config.vision.image_size)
            ones = torch.ones(1, _PROMPT, dtype=torch.bool)
            tokens = torch.zeros(1, _PROMPT, dtype=torch.int64)
            self.policy.prefix(images, torch.ones(1, 1, dtype=torch.bool), tokens, ones)
        return int(counter.get_total_flops())

    def flops_of_pass(self) -> int:
        """Of one transition through action expert, alignment expert and heads, forward."""
        c = self.config
        with torch.device("meta"):
            shape = (1, c.language.depth, 2, c.language.kv_heads, self.prefix_tokens)
            seen = torch.ones(1, 1, dtype=torch.bool)
            now = Prefix(
                torch.zeros(*shape, c.language.head_dim),
                torch.ones(1, self.prefix_tokens, dtype=torch.bool),
                c.vision.tokens,
                torch.zeros(1, 1, c.feature_dim),
                seen,
            )
            state, actions = torch.zeros(1, c.state_dim), torch.zeros(1, c.stride, c.action_dim)
            with FlopCounterMode(display=False) as counter:
                following = now.only_features()
                self.policy.alignment_pass(now, following, state, actions, self.policy.live_w0())
        return int(counter.get_total_flops())


def geometries() -> dict[str, Geometry]:
    """The models of the table: what ships, and the published ones in bfloat16."""
    return {
        "tiny": Geometry(tiny_config(), bytes_per_number=4),
        "pi0": Geometry(pi0_config(), bytes_per_number=2),
        "pi05": Geometry(pi05_config(), bytes_per_number=2),
    }


def sizes_table(models: dict[str, Geometry]) -> str:
    """Parameters and shapes by model."""
    parts = ("vision", "language", "action", "ttt", "w", "alignment", "heads")
    rows = [[part, *(millions(m.parts[part]) for m in models.values())] for part in parts]
    rows.append(["all", *(millions(sum(m.parts.values())) for m in models.values())])

    def w1(model: Geometry) -> str:
        c = model.config
        return f"{len(c.ttt_layers)} x {c.ttt.heads} x {c.ttt_head_dim} x {c.ttt_head_dim}"

    rows += [
        ["W1 (layers x heads x d x d)", *(w1(m) for m in models.values())],
        ["W in float32", *(f"{4 * m.parts['w'] / 1e6:,.2f} MB" for m in models.values())],
        ["depth, width of the alignment expert"]
        + [f"{m.config.alignment.depth}, {m.config.alignment.width}" for m in models.values()],
        ["stride k", *(str(m.config.stride) for m in models.values())],
        ["tokens of one pass", *(str(m.policy.alignment.n_tokens) for m in models.values())],
    ]
    return table(["", *models], rows)


def costs_table(models: dict[str, Geometry]) -> str:
    """Operations and memory of a transition by model."""
    prefix = {name: model.flops_of_prefix() for name, model in models.items()}
    once = {name: model.flops_of_pass() for name, model in models.items()}
    rows = [
        ["prefix, once a frame [FLOP]", *(millions(n) for n in prefix.values())],
        ["alignment pass, forward, every step [FLOP]", *(millions(n) for n in once.values())],
        ["prefix / pass", *(f"{prefix[name] / once[name]:,.0f}" for name in models)],
        ["prefix in memory [MB]", *(f"{m.prefix_bytes / 1e6:,.2f}" for m in models.values())],
        ["Adam's moments [MB]", *(f"{8 * m.parts['w'] / 1e6:,.2f}" for m in models.values())],
    ]
    return table(["one camera", *models], rows)


def experts_parts() -> dict[str, str]:
    """The marked parts of docs/alignment_experts.md."""
    models = geometries()
    # pi0 costs what pi0.5 does, less the norms that depend on the time.
    counted = {name: models[name] for name in ("tiny", "pi05")}
    return {"sizes": sizes_table(models), "costs": costs_table(counted)}


def shipped_table() -> str:
    """Identity, size and parameters of the model that ships."""
    directory = shipped_model_dir()
    policy = load_policy(directory)
    weights = directory / "model.safetensors"
    counts = policy.num_parameters()
    config = json.loads((directory / "config.json").read_text())
    cameras = f"up to {config['max_cameras']} of {policy.config.vision.image_size} pixels square"
    rows = [
        ["`base_sha256`", f"`{policy.base_sha256}`"],
        ["W0, sha256 of `w0_W1` and `w0_b1`", f"`{_w0_sha256(policy)}`"],
        ["`model.safetensors`", f"{weights.stat().st_size:,} bytes"],
        ["parameters", f"{sum(counts.values()):,}"],
        *([f"- {part}", f"{count:,}"] for part, count in counts.items()),
        ["cameras", cameras],
        ["state, action numbers", f"up to {config['state_dim']}, {config['action_dim']}"],
        ["chunk", f"{config['horizon']} actions, {config['flow_steps']} flow steps"],
        ["transition", f"{config['stride']} control steps"],
    ]
    return table(["", "value"], rows)


def _w0_sha256(policy: Policy) -> str:
    w0 = policy.base_w()
    return hashlib.sha256(w0.W1.numpy().tobytes() + w0.b1.numpy().tobytes()).hexdigest()


def main() -> None:
    """Rewrite both documents."""
    for path, new in ((EXPERTS, experts_parts()), (CARD, {"shipped": shipped_table()})):
        path.write_text(with_parts(path.read_text(encoding="utf-8"), new), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Which fast path a policy takes to make a chunk, and what it prepared for it.

The paths compute what `Policy.prefix` and `Policy.predict` compute by the stock modules, without
gradients: `PlainPath` for any model, `FoldedPath` for a small one.
"""

from typing import TYPE_CHECKING, final

import torch

from selfalign.model.compiled import Backend, Compiled
from selfalign.model.folded_path import FoldedPath
from selfalign.model.plain_path import PlainPath

if TYPE_CHECKING:
    from selfalign.model.policy import Policy

# Above these sizes arithmetic outweighs calls: copies of weights would only cost memory.
_SMALL_WIDTH, _SMALL_BATCH = 256, 8


def compile_parts(path: FoldedPath | PlainPath, backend: Backend = "inductor") -> None:
    """Compile what a chunk consists of, for prompts padded to their longest."""
    for part in ("see", "fill", "run"):
        setattr(path, part, Compiled(getattr(path, part), backend))
    path.prompt_tokens = path.config.max_prompt_tokens


@final
class ActPath:
    """Chooses how a policy makes chunks, and keeps what it prepared while the weights stay."""

    def __init__(self, policy: "Policy", *, compile: bool = False) -> None:
        config = policy.config
        self._compile = compile
        self._policy = policy
        self._parameters = list(policy.parameters())
        self._small = (
            config.flavour == "pi0"
            and not config.ttt.inner_step
            and max(config.language.width, config.action.width) <= _SMALL_WIDTH
        )
        self._paths: dict[tuple[bool, bool], FoldedPath | PlainPath] = {}
        self._seen: tuple[object, ...] = ()

    def choose(self, batch: int) -> FoldedPath | PlainPath:
        """The path for a batch of this size, prepared anew when weights have changed."""
        policy = self._policy
        folded = (
            self._small
            and batch <= _SMALL_BATCH
            and policy.dtype == torch.float32 == policy.action_in_proj.weight.dtype
        )
        seen = (
            policy.device,
            policy.dtype,
            tuple(policy.action.ttt_rows),
            [parameter._version for parameter in self._parameters],
        )
        if seen != self._seen:
            self._paths, self._seen = {}, seen
        # Batches come in many sizes: only the one of a single robot is worth a compilation.
        compiled = self._compile and batch == 1
        path = self._paths.get((folded, compiled))
        if path is None:
            with torch.inference_mode(False), torch.no_grad():
                path = FoldedPath(policy) if folded else PlainPath(policy)
            if compiled:
                compile_parts(path)
            self._paths[folded, compiled] = path
        return path

"""Which fast path a policy takes to make a chunk, and what it prepared for it.

The paths compute what `Policy.prefix` and `Policy.predict` compute by the stock modules, without
gradients: `PlainPath` for any model, `FoldedPath` for a small one.
"""

import threading
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from selfalign.model.compiled import Backend, Compiled
from selfalign.model.device import finish
from selfalign.model.folded_path import FoldedPath
from selfalign.model.plain_path import PlainPath
from selfalign.model.prefix import Inputs
from selfalign.model.static_call import Recorder, StaticCalls
from selfalign.model.weights import FastWeights

if TYPE_CHECKING:
    from selfalign.model.policy import Policy

# Above these sizes arithmetic outweighs calls: copies of weights would only cost memory.
_SMALL_WIDTH, _SMALL_BATCH = 256, 8

# Recorded chunks have prompts of some lengths only: multiples of this, and the longest.
_PROMPT_STEP = 64


def compile_parts(path: FoldedPath | PlainPath, backend: Backend = "inductor") -> None:
    """Compile what a chunk consists of, for prompts padded to their longest."""
    for part in ("see", "fill", "run"):
        setattr(path, part, Compiled(getattr(path, part), backend))
    path.prompt_tokens = path.config.max_prompt_tokens


@final
class ActPath:
    """Chooses how a policy makes chunks, and keeps what it prepared while the weights stay.

    Any thread may ask for a path; chunks are recorded and replayed by one thread.
    """

    def __init__(
        self, policy: "Policy", *, compile: bool = False, record: Recorder | None = None
    ) -> None:
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
        self._record = record
        self._recorded = StaticCalls(self._chunk, record)
        self._seen: tuple[object, ...] = ()
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: object) -> None:
        """A copied policy prepares its own."""

    def choose(self, batch: int) -> FoldedPath | PlainPath:
        """The path for a batch of this size, prepared anew when weights have changed."""
        with self._lock:
            return self._choose(batch)

    def _choose(self, batch: int) -> FoldedPath | PlainPath:
        policy = self._policy
        self._renew()
        folded = (
            self._small
            and batch <= _SMALL_BATCH
            and policy.dtype == torch.float32 == policy.action_in_proj.weight.dtype
        )
        # Batches come in many sizes: only the one of a single robot is worth a compilation.
        compiled = self._compile and batch == 1
        path = self._paths.get((folded, compiled))
        if path is None:
            with torch.inference_mode(False), torch.no_grad():
                path = FoldedPath(policy) if folded else PlainPath(policy)
            if compiled:
                compile_parts(path)
            # Another thread may use it next, in a stream of its own.
            finish(policy.device)
            self._paths[folded, compiled] = path
        return path

    def chunk(self, given: Inputs, w: FastWeights, noise_BHA: Tensor) -> Tensor | None:
        """A recorded chunk; None where this one is not to be recorded."""
        if self._record is None or len(noise_BHA) != 1 or w.groups is not None:
            return None
        with self._lock:
            self._renew()
            recorded = self._recorded
        tokens = given.tokens.shape[1]
        steps = -(-tokens // _PROMPT_STEP) * _PROMPT_STEP
        given = given.with_prompts_of(min(steps, self._policy.config.max_prompt_tokens))
        return recorded(
            given.images,
            given.image_mask,
            given.tokens,
            given.token_mask,
            given.state,
            noise_BHA,
            w.W1,
            w.b1,
        )

    def _chunk(self, *given: Tensor) -> Tensor:
        *observation, state, noise, W1, b1 = given
        w = FastWeights(W1, b1, self._policy.config.ttt_layers)
        return self._policy.act(self._policy.prefix(*observation), state, w, noise=noise)

    def _renew(self) -> None:
        """Forget what was prepared from weights that have changed."""
        policy = self._policy
        seen = (
            policy.device,
            policy.dtype,
            tuple(policy.action.ttt_rows),
            [parameter._version for parameter in self._parameters],
        )
        if seen == self._seen:
            return
        self._paths, self._seen = {}, seen
        self._recorded = StaticCalls(self._chunk, self._record)

"""One robot's way into and out of the policy: raw observations to tensors, chunks to raw actions.

Shape key: B observations, n frames, N cameras, S image side, s state numbers, A action numbers of
the model, a action numbers of the robot, H horizon, k stride.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfalign.align.batch import TransitionBatch
from selfalign.align.camera_slots import check_cameras
from selfalign.align.robot_numbers import RobotNumbers
from selfalign.align.targets import aligned_numbers
from selfalign.data.continuation import Continuation
from selfalign.data.observation import Observation, ObservationMismatch, encode_frames
from selfalign.data.play_store import EpisodeSlice
from selfalign.data.spec import Dimension, RobotSpec
from selfalign.data.transitions import rows_before
from selfalign.errors import SpecError
from selfalign.model.device import upload
from selfalign.model.policy import Policy
from selfalign.model.prefix import Inputs, Prefix
from selfalign.model.rtc import Guidance, Overlap, continue_chunk
from selfalign.model.tokenizer import PromptTooLong
from selfalign.model.weights import FastWeights

# Images [n, H, W, 3] by camera.
Frames = dict[str, NDArray[np.uint8]]

# Frames encoded at once, and numbers in the widest layer of them: bounds memory, costs no speed.
_FRAMES, _NUMBERS = 64, 1 << 26

# Sets of instructions whose tokens are kept.
_PROMPTS = 64


@final
class RobotIO:
    """Binds a policy to a robot spec. Any thread may call it: it keeps nothing but known prompts.

    `guidance` says how a chunk is pulled towards the one that it continues. Raises SpecError at
    construction when the robot has more state or action numbers than the model, or other cameras.
    """

    def __init__(
        self, policy: Policy, spec: RobotSpec, *, guidance: Guidance | None = None
    ) -> None:
        config = policy.config
        for what, has, most in (
            ("state numbers", len(spec.state), config.state_dim),
            ("action numbers", len(spec.action), config.action_dim),
        ):
            if has > most:
                raise SpecError(
                    f"robot {spec.name!r} has {has} {what}; model {config.variant!r} takes {most}"
                )
        check_cameras(spec, config)
        self.policy = policy
        self.spec = spec
        self.guidance = guidance or Guidance()
        self.device = policy.device
        self._image_mask = torch.ones(1, len(spec.cameras), dtype=torch.bool, device=self.device)
        self._prompts: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}
        self.numbers = RobotNumbers(spec, config, policy.processing)
        self.state_normaliser = self.numbers.state_normaliser
        self.action_normaliser = self.numbers.action_normaliser

    def encode(self, observations: list[Observation]) -> Inputs:
        """Checked observations to tensors. The prompt of pi0.5 carries the state, as openpi does.

        Raises ObservationMismatch for an instruction that is longer than the model reads.
        """
        return self._encode(observations, np.stack([o.state for o in observations]))

    def _encode(self, observations: list[Observation], raw_Bs: NDArray[np.float32]) -> Inputs:
        frames = {
            camera.name: [o.images[camera.name] for o in observations]
            for camera in self.spec.cameras
        }
        images, mask = self._images(frames)
        texts = [o.instruction or self.spec.default_instruction for o in observations]
        tokens, token_mask = self._tokens(texts, self.numbers.prompt_states(raw_Bs))
        state = upload(torch.from_numpy(self.numbers.state(raw_Bs)), self.device)
        return Inputs(images, mask, tokens, token_mask, state)

    def prefix(self, inputs: Inputs) -> Prefix:
        """The frozen prefix of encoded observations."""
        return self.policy.prefix(
            inputs.images, inputs.image_mask, inputs.tokens, inputs.token_mask
        )

    @property
    def rows_before(self) -> int:
        """How many recorded rows before its start a transition needs."""
        return rows_before(self.spec)

    @property
    def horizon(self) -> int:
        """Steps H of a chunk."""
        return self.policy.config.horizon

    def act(
        self,
        observations: list[Observation],
        w: FastWeights,
        *,
        seed: int | None = None,
        continuations: Sequence[Continuation | None] | None = None,
        last_commands: Sequence[NDArray[np.floating] | None] | None = None,
    ) -> NDArray[np.float32]:
        """A chunk [B, H, a] in the robot's units for each observation. Not clamped, not checked.

        Args:
            observations: B of them.
            w: the W that makes all the chunks.
            seed: of the flow noise.
            continuations: what each chunk has to continue, or None for one that continues nothing.
            last_commands: the command [a] before each chunk, or None where nobody knows it;
                a robot whose actions are targets needs it (see `TargetSteps.last`).

        Raises:
            ValueError: there is not one continuation, or command, for each observation.
            ObservationMismatch: the command before a chunk of targets is not known, or is none.
        """
        for what, given in (("continuations", continuations), ("commands", last_commands)):
            if given is not None and len(given) != len(observations):
                raise ValueError(
                    f"{len(given)} {what} for {len(observations)} observations; give one each, or "
                    "none at all"
                )
        raw_state = np.array([observation.state for observation in observations])
        given = last_commands or [None] * len(observations)
        last = self.numbers.last_commands(raw_state, given)
        overlap = self._overlap(continuations or [], raw_state, last)
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        # Guidance takes gradients, which inference mode forbids.
        with torch.inference_mode() if overlap is None else torch.no_grad():
            inputs = self._encode(observations, raw_state)
            shape = (len(observations), self.horizon, self.policy.config.action_dim)
            noise = torch.randn(shape, generator=generator, device=self.device)
            if overlap is None:
                chunk = self.policy.chunk(inputs, w, noise)
            else:
                chunk = continue_chunk(
                    self.policy,
                    self.prefix(inputs),
                    inputs.state,
                    w,
                    overlap,
                    noise=noise,
                    guidance=self.guidance,
                )
        return self.numbers.raw_actions(chunk.float().cpu().numpy(), raw_state, last)

    def _overlap(
        self,
        continuations: Sequence[Continuation | None],
        raw_state: NDArray[np.float32],
        last: NDArray[np.floating] | None,
    ) -> Overlap | None:
        """The continuations as the sampler takes them; None if there are none."""
        if all(item is None for item in continuations):
            return None
        width = self.policy.config.action_dim
        actions = np.zeros((len(continuations), self.horizon, width), np.float32)
        for i, item in enumerate(continuations):
            if item is not None:
                before = None if last is None else last[i : i + 1]
                rows = self.numbers.actions(item.actions[None], raw_state[i : i + 1], before)
                actions[i, : len(item.actions)] = rows[0]
        spans = np.array([(c.delay, c.until) if c else (0, 0) for c in continuations], np.int64)
        return Overlap(
            self._tensor(actions),
            self._tensor(spans[:, 0]),
            self._tensor(spans[:, 1]),
            self._tensor(self.action_normaliser.mask),
        )

    @torch.no_grad()
    def frame_prefixes(self, frames: dict[str, NDArray[np.uint8]]) -> Prefix:
        """Prefixes of n recorded frames [n, H, W, 3] by camera, under alignment's empty prompt."""
        count = len(next(iter(frames.values())))
        parts: list[Prefix] = []
        step = self._frames_at_once()
        for start in range(0, count, step):
            part = {name: images[start : start + step] for name, images in frames.items()}
            images, mask = self._images(part)
            tokens, token_mask = self._tokens([""] * len(images))
            parts.append(self.policy.prefix(images, mask, tokens, token_mask))
        return Prefix.cat(parts)

    def _frames_at_once(self) -> int:
        """At full size the MLP of one frame of three cameras takes 25 MB in bfloat16."""
        config = self.policy.config
        tokens = len(self.spec.cameras) * config.vision.tokens + 1
        return max(1, min(_FRAMES, _NUMBERS // (tokens * config.language.mlp_dim)))

    def transitions(
        self,
        episode: EpisodeSlice,
        starts: NDArray[np.int64],
        *,
        prefixes: Callable[[NDArray[np.int64], Frames], Prefix] | None = None,
    ) -> TransitionBatch:
        """The transitions that begin at rows `starts` of an episode; each frame is encoded once.

        `prefixes` may know the prefixes of some rows already; it gets the rows and their frames.

        Raises:
            ValueError: an action is a target, and a start has no row before it.
        """
        stride, before = self.policy.config.stride, self.rows_before
        if len(starts) and starts.min() < before:
            raise ValueError(
                f"a transition of robot {self.spec.name!r} begins at row {starts.min()}, but its "
                f"targets need {before} row before"
            )
        rows = np.unique(np.concatenate([starts, starts + stride]))
        frames = {name: x[rows] for name, x in episode.images.items()}
        prefix = self.frame_prefixes(frames) if prefixes is None else prefixes(rows, frames)
        now = self._tensor(np.searchsorted(rows, starts))
        following = self._tensor(np.searchsorted(rows, starts + stride))
        raw = episode.state[starts]
        state = self._tensor(self.numbers.state(raw))
        steps = starts[:, None] + np.arange(stride)
        last = episode.action[starts - 1] if before else None
        actions = self._tensor(self.numbers.actions(episode.action[steps], raw, last))
        state_mask = self._tensor(self._aligned(self.spec.state, state.shape[-1]))
        action_mask = self._tensor(self._aligned(self.spec.action, actions.shape[-1]))
        return TransitionBatch(
            prefix.index(now),
            prefix.only_features().index(following),
            state,
            actions,
            state_mask.expand(len(starts), -1),
            action_mask.expand(len(starts), -1),
        )

    @staticmethod
    def _aligned(dimensions: tuple[Dimension, ...], width: int) -> NDArray[np.bool_]:
        return aligned_numbers((dimension.name for dimension in dimensions), width)

    def _images(
        self, frames: Mapping[str, NDArray[np.uint8] | Sequence[NDArray[np.uint8]]]
    ) -> tuple[Tensor, Tensor]:
        size = self.policy.config.vision.image_size
        processing = self.numbers.processing
        images, _ = encode_frames(
            frames,
            self.spec,
            size,
            len(self.spec.cameras),
            resize="pil" if processing is None else processing.image_resize,
        )
        # On a CPU not copied: these were made just now.
        pixels = upload(torch.from_numpy(images), self.device)
        return pixels, self._image_mask.expand(len(images), -1)

    def _tokens(
        self, texts: list[str], states: list[NDArray[np.floating]] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Prompts to tokens; those of instructions alone are kept, since they come again."""
        if states is not None:
            return self._read_prompts(texts, states)
        known = self._prompts.get(key := tuple(texts))
        if known is None:
            with torch.inference_mode(mode=False):
                known = self._read_prompts(texts)
            if len(self._prompts) >= _PROMPTS:
                self._prompts = {}
            self._prompts[key] = known
        return known

    def _read_prompts(
        self, texts: list[str], states: list[NDArray[np.floating]] | None = None
    ) -> tuple[Tensor, Tensor]:
        try:
            tokens, mask = self.policy.prompts.encode(texts, states=states)
        except PromptTooLong as error:
            raise ObservationMismatch(
                field="instruction",
                got=f"{error.tokens} tokens of text",
                expected=f"at most {error.limit}; use fewer or plainer words",
            ) from None
        return upload(tokens, self.device), upload(mask, self.device)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        # A copy, since the masks of a normaliser are read-only.
        return upload(torch.tensor(array), self.device)

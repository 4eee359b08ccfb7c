"""The model alone, as the server runs it: same weights, same thread count, one observation."""

from __future__ import annotations

import time
from typing import Any

import torch

from selfalign.align.robot_io import RobotIO
from selfalign.data.observation import Observation
from selfalign.data.spec import RobotSpec
from tests.benchmarks.served_model import load_served_policy


class BareForward:
    """Prefix and action chunk from tensors that are ready: no server, no encoding, no safety."""

    def __init__(self, spec: dict[str, Any], observation: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        self._io = RobotIO(load_served_policy(), RobotSpec.model_validate(spec))
        self._w = self._io.policy.base_w()
        self._inputs = self._io.encode(
            [
                Observation(
                    images=observation["images"],
                    state=observation["state"],
                    instruction=observation["instruction"],
                )
            ]
        )

    def time_ms(self) -> float:
        """One forward [ms]."""
        inputs = self._inputs
        started_ns = time.perf_counter_ns()
        with torch.inference_mode():
            self._io.policy.act(self._io.prefix(inputs), inputs.state, self._w)
        return (time.perf_counter_ns() - started_ns) / 1e6

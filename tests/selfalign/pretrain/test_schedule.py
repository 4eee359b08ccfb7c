"""One cycle of the learning rate, and the curriculum."""

import pytest
import torch

from selfalign.pretrain.config import Stage1Config
from selfalign.pretrain.schedule import one_cycle
from selfalign.pretrain.stage1 import canonical_share


def rates(warmup: float) -> list[float]:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=7.0)
    out = [one_cycle(optimiser, 2.0, step / 100, warmup) for step in range(100)]
    assert optimiser.param_groups[0]["lr"] == out[-1]
    return out


def test_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    curve = rates(0.1)
    assert curve[0] == pytest.approx(0.02)
    assert curve[10] == pytest.approx(2.0)
    assert curve[55] == pytest.approx(1.0)
    assert curve[-1] < 0.01
    assert curve[:11] == sorted(curve[:11])
    assert curve[10:] == sorted(curve[10:], reverse=True)


def test_without_warm_up_the_peak_comes_first() -> None:
    assert rates(0.0)[0] == pytest.approx(2.0)


def test_curriculum_falls_linearly_and_then_stays() -> None:
    config = Stage1Config(canonical_start=0.6, canonical_end=0.2, canonical_until=0.5)
    shares = [canonical_share(config, p) for p in (0.0, 0.25, 0.5, 0.9)]
    assert shares == pytest.approx([0.6, 0.4, 0.2, 0.2])

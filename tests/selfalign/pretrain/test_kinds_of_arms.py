"""Stage 1 on several kinds of arms: how often each is drawn, and what is particular to it."""

import numpy as np
import pytest
import torch

from selfalign.data.recording import Recording
from selfalign.errors import StoreError
from selfalign.model.policy import Policy
from selfalign.pretrain.cache import build_cache
from selfalign.pretrain.config import PretrainConfig, Stage1Config
from selfalign.pretrain.embodiments import Embodiment
from selfalign.pretrain.record import record_groups
from selfalign.pretrain.stage1_data import Stage1Data, kind_of
from selfalign.sim import SimulationUnavailable


@pytest.fixture(scope="module")
def data(config: PretrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Stage1Data:
    """Seven groups of play and a demonstration, some of a Panda and some of procedural arms."""
    directory = tmp_path_factory.mktemp("kinds") / "recording"
    arms = {"panda": 0.4, "procedural": 0.6}
    record = config.record.model_copy(update={"arms": arms, "groups": 7, "seed": 1})
    try:
        record_groups(record, directory, jobs=1)
    except SimulationUnavailable as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    policy, recording = Policy(config.model), Recording(directory)
    return Stage1Data(policy, recording, build_cache(policy, recording), 1)


def drawn(data: Stage1Data, config: Stage1Config) -> list[Embodiment]:
    return [data.draw(seed, 1000 + seed, 0.0, config) for seed in range(60)]


def kinds(embodiments: list[Embodiment]) -> list[str]:
    return [kind_of(embodiment.group.arm) for embodiment in embodiments]


def settings(config: PretrainConfig, **changes: object) -> Stage1Config:
    return config.stage1.model_copy(update={"families": {"tool_yawed": 1.0}, **changes})


def test_shares_say_how_often_a_kind_is_drawn(data: Stage1Data, config: PretrainConfig) -> None:
    found = kinds(drawn(data, settings(config, arm_shares={"panda": 0.9, "procedural": 0.1})))
    assert 42 <= found.count("panda") < 60
    assert set(kinds(drawn(data, settings(config, arm_shares={"procedural": 2.0})))) == {
        "procedural"
    }
    assert len({e.group.start for e in drawn(data, settings(config))}) == len(data.train_groups)


def test_a_share_of_arms_that_were_not_recorded_is_refused(
    data: Stage1Data, config: PretrainConfig
) -> None:
    with pytest.raises(StoreError, match=r"names ur5e; .* to train on of: panda, procedural"):
        drawn(data, settings(config, arm_shares={"panda": 0.5, "ur5e": 0.5}))


def test_limits_and_spaces_go_by_the_kind_of_arm(data: Stage1Data, config: PretrainConfig) -> None:
    by_kind = settings(
        config,
        other_limits=1.0,
        arm_limits={"panda": 0.0},
        arm_families={"procedural": {"joint_canonical": 1.0}},
    )
    for embodiment in drawn(data, by_kind):
        is_panda = kind_of(embodiment.group.arm) == "panda"
        assert (embodiment.state_scale == 1).all() == is_panda
        joints = embodiment.group.arm.joint_count + 1
        assert embodiment.action_mask.sum() == (4 if is_panda else joints)


@pytest.mark.parametrize("share", [0.5, 0.75])
def test_w_is_aligned_on_a_share_of_the_play_and_judged_on_the_rest(
    data: Stage1Data, config: PretrainConfig, share: float
) -> None:
    first_rows = set()
    for embodiment in drawn(data, settings(config, support=share)):
        played = embodiment.group.transitions
        assert len(embodiment.support) == round(share * len(played))
        both = np.sort(np.concatenate([embodiment.support, embodiment.query]))
        assert np.array_equal(both, played)
        # Either end of the play may be what judges.
        first_rows.add(played[0] in embodiment.support)
    assert first_rows == {True, False}

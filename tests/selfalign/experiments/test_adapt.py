"""Alignment of the experiments is that of the server."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from selfalign.align.aligner import Aligner, AlignmentConfig
from selfalign.align.gates import GateConfig
from selfalign.data.spec import RobotSpec
from selfalign.errors import NoPlayData
from selfalign.experiments.adapt import align, encode, fit, judge
from selfalign.experiments.bench import Bench
from selfalign.experiments.play import beginning, record_play, with_shuffled_actions
from server.align_job import AlignJob
from server.align_job import judge as judge_of_server
from server.align_play import load_play
from tests.fakes.experiment import small_bench, small_policy, small_stage
from tests.fakes.target_robot import target_episode, target_spec


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    policy = small_policy()
    with small_stage(policy) as stage:
        yield small_bench(stage, policy)


class OneEpisode:
    """A play reader that holds one recorded episode."""

    def __init__(self, play) -> None:
        self.play = play
        self.length = len(play)

    def open(self, _: str) -> "OneEpisode":
        return self

    def read_times(self, start: int, stop: int):
        return self.play.t_ns[start:stop]

    def read(self, start: int, stop: int):
        play = self.play
        return type(play)(
            {name: images[start:stop] for name, images in play.images.items()},
            play.state[start:stop],
            play.action[start:stop],
            play.t_ns[start:stop],
            play.instructions[start:stop],
        )


def job(spec: RobotSpec, tmp_path) -> AlignJob:
    return AlignJob(session="s", spec=spec, episodes=("e",), version=1, out=tmp_path / "w")


def test_play_too_short_to_be_split_is_refused(bench: Bench) -> None:
    with pytest.raises(NoPlayData, match=r"1 steps of play \(0.1 s\) hold 0 transitions"):
        encode(bench.io, bench.play(0.1))


def test_play_is_split_and_encoded_as_the_server_does(bench: Bench, tmp_path) -> None:
    play = bench.play(4.0)
    ours = encode(bench.io, play)
    theirs = load_play(
        job(bench.stage.spec, tmp_path), bench.policy, OneEpisode(play), lambda: None
    )
    for one, other in ((ours.train, theirs.train), (ours.held_out, theirs.held_out)):
        assert torch.equal(one.actions, other.actions)
        assert torch.equal(one.state, other.state)
        torch.testing.assert_close(one.now.features, other.now.features)
        assert torch.equal(one.action_mask, other.action_mask)


def test_gates_say_what_the_servers_say(bench: Bench, tmp_path) -> None:
    play, aligner = encode(bench.io, bench.play(4.0)), Aligner(bench.policy)
    base = bench.policy.base_w()
    candidate = base.map(lambda tensor: tensor + 0.01)
    ours = judge(aligner, play, candidate, GateConfig()).report
    theirs = judge_of_server(
        job(bench.stage.spec, tmp_path), aligner, play.held_out, active=base, candidate=candidate
    )
    assert ours == theirs


def test_fitting_keeps_w_on_the_way(bench: Bench) -> None:
    train = encode(bench.io, bench.play(4.0)).train
    found = fit(Aligner(bench.policy), train, steps=3, keep={0, 2})
    assert sorted(found) == [0, 2, 3]
    assert torch.equal(found[0].W1, bench.policy.base_w().W1)
    shorter = fit(Aligner(bench.policy), train, steps=2)
    assert torch.equal(found[2].W1, shorter[2].W1)
    assert not torch.equal(found[3].W1, found[2].W1)


def test_an_alignment_holds_what_the_gates_saw(bench: Bench) -> None:
    found = align(bench.io, bench.play(4.0), steps=2, config=AlignmentConfig(), gates=GateConfig())
    total = next(check for check in found.judgement.report.checks if check.name == "held_out_total")
    assert found.judgement.held_out_after["total"] == pytest.approx(total.value)
    assert found.judgement.train_after["total"] < found.judgement.train_before["total"]
    assert torch.equal(found.candidate.W1, found.w[2].W1)


def test_play_is_recorded_at_the_robots_rate_within_its_limits(bench: Bench) -> None:
    play = record_play(bench.stage.env(), seconds=2.0, seed=5)
    spec = bench.stage.spec
    assert len(play) == 20
    assert set(play.t_ns[1:] - play.t_ns[:-1]) == {spec.period_ns}
    low, high = ([getattr(d, end) for d in spec.action] for end in ("low", "high"))
    assert (play.action >= low).all()
    assert (play.action <= high).all()
    again = record_play(bench.stage.env(), seconds=2.0, seed=5)
    assert (again.images["front"] == play.images["front"]).all()


def test_the_beginning_of_play_is_what_shorter_play_would_have_been(bench: Bench) -> None:
    env = bench.stage.env()
    long, short = (record_play(env, seconds=s, seed=5) for s in (2.0, 1.0))
    start = beginning(long, 10)
    assert (start.action == short.action).all()
    assert (start.images["front"] == short.images["front"]).all()
    assert len(start.instructions) == 10


def test_shuffled_actions_are_the_same_actions_elsewhere(bench: Bench) -> None:
    play = record_play(bench.stage.env(), seconds=2.0, seed=5)
    shuffled = with_shuffled_actions(play, bench.io.spec, 1)
    assert (shuffled.action != play.action).any()
    assert sorted(map(tuple, shuffled.action)) == sorted(map(tuple, play.action))
    assert shuffled.state is play.state


def test_of_targets_the_changes_are_shuffled() -> None:
    play = target_episode(20)
    shuffled = with_shuffled_actions(play, target_spec(), 1)
    before, after = (
        sorted(map(tuple, np.diff(x.action[:, :2], axis=0).round(4))) for x in (play, shuffled)
    )
    # The first row has no change; shuffling puts it elsewhere.
    assert len(set(before) - set(after)) <= 1
    assert (shuffled.action != play.action).any()
    assert sorted(shuffled.action[:, 2]) == sorted(play.action[:, 2])

"""One alignment, from recorded play to a judged candidate, with the dummy model."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from selfalign.align.aligner import AlignmentConfig
from selfalign.align.gates import GateConfig
from selfalign.align.snapshot import read_snapshot, write_snapshot
from selfalign.data.play_store import PlayStore
from selfalign.data.w_spec import w_spec_sha256
from selfalign.errors import NoPlayData, SnapshotError
from selfalign.model.policy import Policy
from server.align_job import (
    AlignJob,
    AlignmentDiverged,
    Stopped,
    failure_message,
    finite,
    run_job,
)
from server.align_play import load_play, prefix_bytes
from tests.fakes.play_steps import small_spec
from tests.fakes.recorded import record
from tests.fakes.running import dummy_policy

SPEC = small_spec()


@pytest.fixture(scope="module")
def policy() -> Policy:
    return dummy_policy()


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    root = tmp_path_factory.mktemp("play")
    return root, record(root, 60, 15, 3)


class Run:
    """Runs a job and keeps what it told."""

    def __init__(self, policy: Policy, play: tuple[Path, list[str]], out: Path) -> None:
        self.policy = policy
        self.root, self.episodes = play
        self.out = out
        self.messages: list[dict[str, Any]] = []

    def job(self, **changes: Any) -> AlignJob:
        given = {
            "session": "s",
            "spec": SPEC,
            "episodes": tuple(self.episodes),
            "version": 3,
            "steps": 3,
            "out": self.out / "candidate.safetensors",
            "config": AlignmentConfig(batch_size=8),
            # The dummy model is untrained: judge the path, not the result.
            "gates": GateConfig(
                min_improvement=0, min_improvement_errors=0, max_single_increase=1e6
            ),
            "seed": 1,
        }
        return AlignJob(**{**given, **changes})

    def __call__(self, *, stop_at: int | None = None, **changes: Any) -> list[str]:
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            if stop_at is not None and len(self.of("progress")) >= stop_at:
                raise Stopped

        reader = PlayStore.reader(self.root)
        run_job(self.job(**changes), self.policy, reader, tell=self.messages.append, turn=turn)
        return [message["type"] for message in self.messages]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]


@pytest.fixture
def run(policy: Policy, play: tuple[Path, list[str]], tmp_path: Path) -> Run:
    return Run(policy, play, tmp_path)


def read(run: Run) -> Any:
    policy = run.policy
    return read_snapshot(
        run.out / "candidate.safetensors",
        like=policy.base_w(),
        base_sha256=policy.base_sha256,
        max_norm=None,
    )


def test_job_aligns_writes_and_judges(run: Run) -> None:
    kinds = run()
    assert kinds[:3] == ["begun", "data", "held_out"]
    assert kinds[-2:] == ["candidate", "gates"]
    (data,) = run.of("data")
    assert data["play_steps"] == 78
    assert data["train"] > 0
    assert data["held_out"] > 0
    assert run.of("progress")[-1]["step"] == 3
    snapshot = read(run)
    assert snapshot.sha256 == run.of("candidate")[0]["sha256"]
    assert (snapshot.meta.version, snapshot.meta.steps, snapshot.meta.parent) == (3, 3, 0)
    assert "held_out_after/total" in snapshot.meta.metrics
    assert snapshot.meta.spec_sha256 == w_spec_sha256(run.job().spec)


def test_alignment_lowers_the_held_out_loss(run: Run) -> None:
    run(steps=15)
    (candidate,) = run.of("candidate")
    assert candidate["after"] < candidate["before"]
    (gates,) = run.of("gates")
    checks = {check["name"]: check for check in gates["checks"]}
    assert checks["held_out_total"]["passed"]


def test_same_job_same_bytes(run: Run, tmp_path: Path) -> None:
    run()
    first = read(run)
    (tmp_path / "again").mkdir()
    run(out=tmp_path / "again" / "candidate.safetensors")
    run.out = tmp_path / "again"
    torch.testing.assert_close(read(run).w.W1, first.w.W1, rtol=0, atol=0)


def test_base_is_the_start_unless_active_is_asked_for(run: Run, tmp_path: Path) -> None:
    run(steps=2)
    active = tmp_path / "active.safetensors"
    (run.out / "candidate.safetensors").rename(active)
    from_base = run.job().start
    run(steps=1, active_path=active, active_version=3, version=4, start="active")
    assert from_base == "base"
    assert read(run).meta.parent == 3
    moved_from_base = read(run).w.combine(run.policy.base_w(), torch.sub).norm()
    (run.out / "candidate.safetensors").unlink()
    run(steps=1, active_path=active, active_version=3, version=4)
    assert read(run).meta.parent == 0
    assert read(run).w.combine(run.policy.base_w(), torch.sub).norm() < moved_from_base


def test_budget_in_seconds_ends(run: Run) -> None:
    run(steps=None, seconds=0.05)
    assert run.of("candidate")[0]["step"] >= 1


def test_losses_switched_off_are_not_judged(run: Run) -> None:
    run(config=AlignmentConfig(batch_size=8, lambda_dynamics=0.0))
    names = {check["name"] for check in run.of("gates")[0]["checks"]}
    assert "alignment/dynamics" not in names
    assert "alignment/inverse_dynamics" in names


def test_stopped_before_the_first_step_leaves_nothing(run: Run) -> None:
    assert run(stop_at=0)[-1] == "stopped"
    assert not list(run.out.iterdir())


def test_stopped_in_between_keeps_what_was_reached(run: Run) -> None:
    kinds = run(stop_at=1, steps=1000)
    assert kinds[-2:] == ["candidate", "stopped"]
    assert read(run).meta.steps >= 1
    assert "gates" not in kinds


def test_too_little_play_is_said(run: Run) -> None:
    with pytest.raises(NoPlayData, match="needs at least 32"):
        run(episodes=tuple(run.episodes[1:]))


def test_training_and_held_out_play_are_both_there(run: Run) -> None:
    stride = run.policy.config.stride
    play = load_play(run.job(), run.policy, PlayStore.reader(run.root), lambda: None)
    total = sum(max(0, length - stride) for length in (60, 15, 3))
    assert len(play.train) + len(play.held_out) <= total
    assert len(play.held_out) >= total // 10


def test_transitions_are_bounded(run: Run) -> None:
    job = run.job(max_transitions=32)
    play = load_play(job, run.policy, PlayStore.reader(run.root), lambda: None)
    assert len(play.train) + len(play.held_out) <= 34


def test_play_beyond_its_memory_is_aligned_on_through_the_prefix_cache(run: Run) -> None:
    memory = 24 * prefix_bytes(run.policy, len(run.job().spec.cameras))
    run(steps=3)
    expected = read(run).w
    run.job().out.unlink()
    run(steps=3, prefix_memory_bytes=memory)
    cache = run.of("progress")[-1]["cache"]
    assert cache["prefix_cache/misses"] > 0
    assert cache["prefix_cache/memory_hits"] > 0
    assert 0 < cache["prefix_cache/memory_bytes"] <= memory
    assert len(list((run.out / "prefixes").iterdir())) == cache["prefix_cache/misses"]
    torch.testing.assert_close(read(run).w.W1, expected.W1, rtol=1e-3, atol=1e-4)


def test_micro_batches_and_checkpointing_find_the_same_w(run: Run) -> None:
    run(steps=3)
    expected = read(run).w
    run.job().out.unlink()
    run(steps=3, config=AlignmentConfig(batch_size=8, micro_batch=3), gradient_checkpointing=True)
    assert run.policy.action.gradient_checkpointing
    torch.testing.assert_close(read(run).w.W1, expected.W1, rtol=1e-3, atol=1e-5)


def test_held_out_play_is_thinned_to_half_of_the_memory(run: Run) -> None:
    memory = 8 * prefix_bytes(run.policy, len(run.job().spec.cameras))
    job = run.job(prefix_memory_bytes=memory)
    play = load_play(job, run.policy, PlayStore.reader(run.root), lambda: None)
    assert play.cache is not None
    assert 1 <= len(play.held_out) <= 4 + len(run.episodes)


def test_divergence_is_an_error_and_writes_nothing(run: Run) -> None:
    with pytest.raises(AlignmentDiverged, match="alignment diverged"):
        run(steps=5, config=AlignmentConfig(batch_size=8, learning_rate=1e38))
    assert not list(run.out.iterdir())


def test_active_w_of_another_model_is_refused(run: Run, tmp_path: Path) -> None:
    run(steps=1)
    snapshot = read(run)
    meta = type(snapshot.meta)(**{**vars(snapshot.meta), "base_sha256": "c" * 64})
    write_snapshot(tmp_path / "other.safetensors", snapshot.w, meta)
    with pytest.raises(SnapshotError, match="frozen model"):
        run(active_path=tmp_path / "other.safetensors", active_version=1)


@pytest.mark.parametrize(("value", "expected"), [(1.5, 1.5), (math.nan, None), (math.inf, None)])
def test_what_json_cannot_say_becomes_null(value: float, expected: float | None) -> None:
    assert finite(value) == expected


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NoPlayData("too little"), "too little"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError(), "out of memory"),
        (KeyError("x"), "KeyError"),
    ],
)
def test_every_failure_has_words_for_the_operator(error: Exception, words: str) -> None:
    assert words in failure_message(error)

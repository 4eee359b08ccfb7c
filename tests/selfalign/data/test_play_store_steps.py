"""The play store: steps it refuses, and what an ended episode takes."""

import dataclasses

import numpy as np
import pytest

from selfalign.data.episode_layout import CAPACITY
from selfalign.data.observation import ObservationMismatch
from selfalign.data.play_store import (
    BadPlayStep,
    EpisodeClosed,
)
from tests.fakes.play_steps import assert_is_steps, step
from tests.fakes.play_store import SPEC, open_store


def changed(index=1, **changes):
    return dataclasses.replace(step(index, SPEC), **changes)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (changed(action=np.zeros(3, np.float32)), r"float32 array \[2\]"),
        (changed(action=np.zeros(2)), "float64"),
        (changed(action=[0, 0]), r"float32 array \[2\]"),
        (changed(action=np.float32([0, np.nan])), r"action\[1\] \(d1\)"),
        (changed(action=np.float32([0, np.inf])), "finite"),
        (changed(action=np.float32([500, 0])), "unit"),
        (changed(t_ns=-1), "t_ns"),
        (changed(t_ns=1.5), "t_ns"),
        (changed(t_ns=True), "t_ns"),
        (changed(t_ns=2**63), "t_ns"),
        (changed(t_ns=step(0, SPEC).t_ns), "start a new episode"),
        (changed(t_ns=step(0, SPEC).t_ns - 1), "start a new episode"),
    ],
)
def test_wrong_step_is_refused_and_the_episode_goes_on(store, wrong, said):
    writer = store.start_episode(SPEC)
    writer.append(step(0, SPEC))
    with pytest.raises(BadPlayStep, match=said):
        writer.append(wrong)
    assert writer.received == 1
    for i in range(1, 5):
        writer.append(step(i, SPEC))
    assert_is_steps(store.open(writer.seal().id).read(0, 5), 0, 5, SPEC)


def test_step_without_a_camera_is_refused(store):
    images = {"front": step(0, SPEC).observation.images["front"]}
    blind = dataclasses.replace(step(0, SPEC).observation, images=images)
    with pytest.raises(ObservationMismatch, match="'wrist' is missing"):
        store.start_episode(SPEC).append(changed(0, observation=blind))


def test_buffer_is_a_copy_of_the_step(store):
    mine = step(1, SPEC)
    writer = store.start_episode(SPEC)
    writer.append(mine)
    mine.observation.images["front"][:] = 77
    mine.action[:] = 0.77
    got = store.open(writer.seal().id).read(0, 1)
    assert got.images["front"][0, 0, 0, 0] == 2
    assert got.action[0, 0] != np.float32(0.77)


def test_instruction_that_changes_all_the_time_is_refused(tmp_path):
    store = open_store(tmp_path, block_steps=2000)
    writer = store.start_episode(SPEC)

    def say(i):
        words = dataclasses.replace(step(i, SPEC).observation, instruction=f"number {i}")
        writer.append(changed(i, observation=words))

    for i in range(1000):
        say(i)
    with pytest.raises(BadPlayStep, match="changed 1000 times"):
        say(1000)
    store.close()


def test_episode_without_steps_is_discarded(store):
    info = store.start_episode(SPEC).seal()
    assert (info.length, info.sealed) == (0, False)
    assert store.episodes() == []


def test_aborted_episode_is_gone(store):
    writer = store.start_episode(SPEC)
    for i in range(5):
        writer.append(step(i, SPEC))
    writer.abort()
    writer.abort()
    assert store.episodes() == []
    assert store.used_bytes() == 0


@pytest.mark.parametrize("end", ["seal", "abort"])
@pytest.mark.parametrize("call", ["append", "flush", "seal"])
def test_ended_episode_takes_nothing_more(store, end, call):
    writer = store.start_episode(SPEC)
    writer.append(step(0, SPEC))
    getattr(writer, end)()
    with pytest.raises(EpisodeClosed):
        writer.append(step(1, SPEC)) if call == "append" else getattr(writer, call)()


def test_capacity_ends_the_episode_clearly(store):
    writer = store.start_episode(SPEC)
    writer._taken = CAPACITY
    with pytest.raises(EpisodeClosed, match="capacity"):
        writer.append(step(0, SPEC))
    writer._taken = 0

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from selfalign.align.aligner import AlignmentConfig
from server.wire.codec import load_json
from server.wire.messages import (
    ActReply,
    ActRequest,
    PlayAck,
    PlayRequest,
    PlayStepMessage,
    read_play_answer,
    read_play_message,
    read_request,
)
from server.wire.operator import (
    DEFAULT_STEPS,
    AlignRequest,
    AlignSession,
    Budget,
    EpisodeSource,
)
from server.wire.problems import PROBLEMS, WireError, problem

IMAGE = np.zeros((2, 2, 3), np.uint8)


def _act(**changes: Any) -> dict[str, Any]:
    return {"images": {"front": IMAGE}, "state": [0.0, 1.0], **changes}


@pytest.mark.parametrize(
    "state",
    [[1, 2.5], (1, 2.5), np.array([1, 2.5]), np.array([1, 2.5], np.float16), [np.float64(1), 2.5]],
)
def test_a_state_becomes_one_float32_row(state: object) -> None:
    read = read_request(ActRequest, _act(state=state)).state

    assert read.dtype == np.float32
    assert read.tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    "state",
    [["1.0"], [True], [None], [[1.0]], [[1], [2, 3]], "abc", 3, None, {}, np.zeros((2, 2)),
     np.array([True]), [{"a": 1}], [10**400]],
)  # fmt: skip
def test_a_state_of_no_numbers_is_refused(state: object) -> None:
    with pytest.raises(WireError, match=r"^state: ") as refused:
        read_request(ActRequest, _act(state=state))

    assert refused.value.code == "bad-request"
    assert refused.value.extra["errors"][0]["field"] == "state"


def test_huge_numbers_become_infinity_and_are_left_to_the_observation_check() -> None:
    assert read_request(ActRequest, _act(state=load_json("[1e60, NaN]"))).state[0] == np.inf


def test_a_misspelt_field_is_named_with_those_that_there_are() -> None:
    with pytest.raises(WireError, match=r"instuction: there is no .* robot, images, state, instr"):
        read_request(ActRequest, _act(instuction="go"))
    with pytest.raises(WireError, match=r"steps: there is no such field; .* source, budget"):
        read_request(AlignRequest, {"steps": 3})
    with pytest.raises(WireError, match=r"budget.step: .* there are steps, seconds$"):
        read_request(AlignRequest, {"budget": {"step": 3}})
    with pytest.raises(WireError, match=r"steps.0.acton: .* images, state, action, t_ns"):
        read_request(PlayRequest, {"steps": [{"acton": [0.0]}]})
    with pytest.raises(WireError, match=r"start.robt: there is no such field$"):
        read_play_message({"type": "start", "robt": "arm"})


def test_a_play_message_without_a_type_says_which_there_are() -> None:
    with pytest.raises(WireError, match="`type` is missing: start, step, sync or end"):
        read_play_message({"state": [0.0]})


def test_the_client_clock_must_be_a_number_that_json_can_hold() -> None:
    with pytest.raises(WireError, match="observed_at_s"):
        read_request(ActRequest, _act(observed_at_s=float("nan")))


@pytest.mark.parametrize("robot", ["", "../etc", "a b", "x" * 65, "-x", 3])
def test_a_robot_name_can_hold_no_path(robot: object) -> None:
    with pytest.raises(WireError, match="robot"):
        read_request(ActRequest, _act(robot=robot))


@pytest.mark.parametrize("value", [None, 3, [], "text", b"bytes"])
def test_a_request_is_a_map(value: object) -> None:
    with pytest.raises(WireError, match="expected a map") as refused:
        read_request(ActRequest, value)

    assert refused.value.code == "bad-message"


def test_many_bad_fields_are_counted() -> None:
    with pytest.raises(WireError, match=r"\(and 2 more\)") as refused:
        read_request(ActRequest, {"a": 1, "b": 2, "c": 3})

    assert len(refused.value.extra["errors"]) == 5


def test_an_older_client_reads_a_newer_reply() -> None:
    reply = ActReply.model_validate(
        {
            "actions": [[1, 2], [3, 4]],
            "robot": "arm",
            "w_version": 3,
            "w_sha256": "a",
            "base_sha256": "b",
            "dt_s": 0.1,
            "clamped_dims": [],
            "timing": {"queue_ms": 0, "encode_ms": 0, "inference_ms": 0, "total_ms": 0, "new": 1},
            "new": True,
        }
    )

    assert reply.actions.shape == (2, 2)


@pytest.mark.parametrize("actions", [[1, 2], [[1], [2, 3]], [["a"]], np.zeros(3)])
def test_a_chunk_is_a_table(actions: object) -> None:
    with pytest.raises(ValidationError, match="rows of numbers"):
        ActReply.model_validate({"actions": actions})


def test_play_messages_are_told_apart_by_their_type() -> None:
    step = read_play_message({"type": "step", "images": {}, "state": [1], "action": [2], "t_ns": 5})

    assert isinstance(step, PlayStepMessage)
    assert step.action.tolist() == [2.0]
    for bad in ({"type": "jump"}, {}, 3, {"type": "step"}):
        with pytest.raises(WireError) as refused:
            read_play_message(bad)
        assert refused.value.code == "bad-play-step"


def test_play_answers_are_told_apart_by_their_type() -> None:
    answer = read_play_answer({"type": "ack", "episode": "e", "received": 3, "durable": 2})

    assert answer == PlayAck(episode="e", received=3, durable=2)
    with pytest.raises(WireError):
        read_play_answer({"type": "nothing"})


def test_an_empty_align_request_has_sensible_defaults() -> None:
    request = AlignRequest()

    assert (request.source, request.promotion) == ("live", "auto")
    assert request.budget.steps == DEFAULT_STEPS == AlignmentConfig().steps


@pytest.mark.parametrize(
    ("source", "got"),
    [
        ("latest", "got 'latest'"),
        (["e1", "e2"], r"got \['e1', 'e2'\]"),
        ({"episodes": []}, r"got \{'episodes': \[\]\}"),
        ({"episode": "e1"}, r"got \{'episode': 'e1'\}"),
        (None, "got None"),
        ("x" * 1000, "got 'xxx"),
    ],
)
def test_a_wrong_source_says_what_was_got_and_what_is_expected(source: object, got: str) -> None:
    with pytest.raises(WireError, match=f"source: {got}") as refused:
        read_request(AlignRequest, {"source": source})

    detail = str(refused.value)
    assert 'expected "live" (the latest play) or {"episodes": ["NAME", ...]}' in detail
    assert detail.count("source") == 1
    assert len(detail) < 250
    assert [item["field"] for item in refused.value.extra["errors"]] == ["source"]


def test_a_source_is_live_or_named_episodes() -> None:
    named = read_request(AlignRequest, {"source": {"episodes": ["e1"]}})

    assert named.source == EpisodeSource(episodes=["e1"])
    assert read_request(AlignRequest, {"source": "live"}).source == "live"
    assert AlignRequest(source=EpisodeSource(episodes=["e1"])) == named


@pytest.mark.parametrize("budget", [{}, {"steps": 3, "seconds": 2}, {"steps": 0}, {"seconds": -1}])
def test_a_budget_is_steps_or_seconds(budget: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Budget.model_validate(budget)


def test_all_losses_off_is_refused() -> None:
    off = {"inverse_dynamics": False, "dynamics": False, "perception": False}

    with pytest.raises(WireError, match="at least one"):
        read_request(AlignRequest, {"losses": off})


def test_a_session_knows_when_it_is_over() -> None:
    session = AlignSession(id="s", robot="arm", state="running")

    assert not session.is_final
    assert session.model_copy(update={"state": "rejected"}).is_final


@pytest.mark.parametrize("code", sorted(PROBLEMS))
def test_every_problem_code_has_a_status_and_a_title(code: str) -> None:
    found = problem(code, "detail", limit=3)

    assert 400 <= found.status < 600
    assert found.title
    assert found.type == f"/problems/{code}"
    assert found.model_dump()["limit"] == 3


def test_an_unknown_code_is_a_failure_of_the_server() -> None:
    assert problem("strange-thing", "x").status == 500
    assert WireError("strange-thing", "x").status == 500

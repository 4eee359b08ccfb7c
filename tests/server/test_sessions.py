"""Alignment sessions: every way they can go, with a worker that does what the test says."""

from dataclasses import replace
from pathlib import Path

import pytest

from selfalign.errors import NoPlayData
from server.play_choice import EpisodeNotFound, EpisodeOfAnother
from server.session_errors import AlignBusy, UnknownSession
from tests.fakes.play_steps import small_spec, step
from tests.fakes.recorded import open_store, record
from tests.fakes.session_desk import SPEC, Desk
from tests.fakes.weights import snapshot_bytes


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that tests only read: 60 steps, then 20 steps of play."""
    root = tmp_path_factory.mktemp("play")
    record(root, 60, 20)
    return root


@pytest.fixture
def desk(tmp_path: Path, play: Path) -> Desk:
    (tmp_path / "play").symlink_to(play)
    return Desk(tmp_path)


def test_a_candidate_that_passes_serves(desk: Desk) -> None:
    session = desk.begin()
    assert desk.sessions.get(session).state == "queued"
    desk.worker.align()
    assert desk.sessions.get(session).state == "running"
    desk.worker.write_candidate()
    assert desk.sessions.get(session).state == "gating"
    desk.worker.judge(passed=True)
    found = desk.sessions.get(session)
    assert (found.state, found.candidate, found.step, found.play_steps) == ("succeeded", 1, 2, 40)
    assert found.held_out is not None
    assert (found.held_out.before, found.held_out.after) == (2.0, 0.5)
    assert found.gates is not None
    assert found.gates.passed
    assert desk.active() == 1
    assert float(desk.registry.active(SPEC.name).w.W1.max()) == 1.0


def test_a_session_says_what_it_waits_for(desk: Desk) -> None:
    desk.worker.is_ready = False
    session = desk.begin()
    assert "waiting for the align worker" in desk.sessions.get(session).detail
    desk.worker.tell("begun")
    assert "play" in desk.sessions.get(session).detail
    desk.worker.tell("data", play_steps=40, train=30, held_out=10)
    assert desk.sessions.get(session).detail == ""
    details = [event.data["detail"] for event in desk.sessions.log(session).after(0)]
    assert "waiting for the align worker" in details[0]


def test_a_session_of_a_worker_that_is_ready_waits_for_nothing(desk: Desk) -> None:
    assert desk.sessions.get(desk.begin()).detail == ""


def test_events_tell_the_story_in_order(desk: Desk) -> None:
    session = desk.begin()
    desk.worker.align()
    desk.worker.write_candidate()
    desk.worker.judge(passed=True)
    names = desk.events(session)
    assert names[:2] == ["state", "state"]
    assert names.count("progress") == 2
    assert names[-4:] == ["gates", "swap", "state", "end"]
    last = desk.sessions.log(session).after(0)[-1]
    assert last.data["state"] == "succeeded"


def test_manual_promotion_waits_for_the_operator(desk: Desk) -> None:
    session = desk.begin(promotion="manual")
    desk.worker.align()
    desk.worker.write_candidate()
    desk.worker.judge(passed=True)
    assert desk.sessions.get(session).state == "succeeded"
    assert desk.active() == 0
    assert desk.registry.record(SPEC.name, 1).status == "candidate"


def test_a_candidate_that_fails_its_gates_never_serves(desk: Desk) -> None:
    session = desk.begin()
    desk.worker.align()
    desk.worker.write_candidate()
    desk.worker.judge(passed=False)
    found = desk.sessions.get(session)
    assert found.state == "rejected"
    assert found.error is not None
    assert "held-out total is 0.5" in found.error
    assert desk.active() == 0
    assert desk.registry.record(SPEC.name, 1).status == "rejected"


def test_a_candidate_that_was_changed_on_disk_fails(desk: Desk) -> None:
    session = desk.begin()
    desk.worker.align()
    desk.worker.write_candidate(sha256="0" * 64)
    assert desk.sessions.get(session).state == "failed"
    assert desk.active() == 0


def test_a_torn_candidate_fails_and_the_next_session_runs(desk: Desk) -> None:
    session = desk.begin()
    desk.worker.align()
    desk.worker.job.out.write_bytes(snapshot_bytes(1.0)[:100])
    desk.worker.tell("candidate", sha256="x", step=2, before=2.0, after=1.0, elapsed_s=1.0)
    found = desk.sessions.get(session)
    assert found.state == "failed"
    assert not desk.worker.job.out.exists()
    assert desk.begin() != session


def test_an_active_w_that_changed_meanwhile_is_not_overruled(desk: Desk) -> None:
    session = desk.begin()
    desk.worker.align()
    uploaded = desk.registry.add_candidate(SPEC.name, snapshot_bytes(9.0))
    desk.registry.activate(SPEC.name, uploaded.version)
    desk.worker.write_candidate()
    desk.worker.judge(passed=True)
    assert desk.sessions.get(session).state == "rejected"
    assert desk.active() == uploaded.version


def test_second_session_is_refused_while_one_runs(desk: Desk) -> None:
    session = desk.begin()
    with pytest.raises(AlignBusy, match=session):
        desk.begin()
    desk.worker.tell("error", message="no")
    desk.begin()


def test_stop_ends_a_session(desk: Desk) -> None:
    session = desk.begin()
    desk.worker.align()
    desk.sessions.stop(session)
    assert desk.worker.stopped == [session]
    desk.worker.write_candidate()
    desk.worker.tell("stopped")
    found = desk.sessions.get(session)
    assert (found.state, found.candidate, desk.active()) == ("stopped", 1, 0)
    desk.sessions.stop(session)
    assert desk.worker.stopped == [session]


def test_error_of_the_worker_fails_the_session(desk: Desk) -> None:
    session = desk.begin()
    desk.worker.tell("error", message="alignment diverged")
    found = desk.sessions.get(session)
    assert (found.state, found.error) == ("failed", "alignment diverged")


def test_death_of_the_worker_fails_the_session_and_says_why(desk: Desk) -> None:
    session = desk.begin()
    desk.worker.align()
    desk.worker.listener.on_exit("killed by SIGKILL")
    found = desk.sessions.get(session)
    assert found.state == "failed"
    assert found.error is not None
    assert "killed by SIGKILL" in found.error
    assert desk.events(session)[-1] == "end"
    desk.begin()


def test_messages_after_the_end_change_nothing(desk: Desk) -> None:
    session = desk.begin()
    desk.worker.tell("error", message="first")
    desk.worker.tell("progress", step=9, elapsed_s=1.0, losses={})
    desk.worker.tell("error", message="second")
    assert desk.sessions.get(session).error == "first"


def test_metrics_show_how_often_a_prefix_was_kept(desk: Desk) -> None:
    desk.begin()
    counts = {"prefix_cache/hit_rate": 0.75, "prefix_cache/misses": 8}
    desk.worker.tell("progress", step=1, elapsed_s=0.1, losses={}, cache=counts)
    shown = desk.metrics.render().decode()
    assert 'selfalign_prefix_cache{what="hit_rate"} 0.75' in shown
    assert 'selfalign_prefix_cache{what="misses"} 8.0' in shown


def test_a_message_that_cannot_be_used_fails_the_session(desk: Desk) -> None:
    session = desk.begin()
    desk.worker.tell("progress")
    assert desk.sessions.get(session).state == "failed"


def test_request_becomes_a_job(desk: Desk) -> None:
    losses = {"inverse_dynamics": True, "dynamics": False, "perception": True}
    desk.begin(budget={"seconds": 3.5}, losses=losses, note="bench")
    job = desk.worker.job
    assert (job.steps, job.seconds, job.note, job.version) == (None, 3.5, "bench", 1)
    assert job.config.lambda_dynamics == 0.0
    assert job.config.lambda_inverse_dynamics == 1.0
    assert len(job.episodes) == 2
    assert (job.active_version, job.active_path) == (0, None)
    assert (job.prefix_memory_bytes, job.prefix_disk_bytes) == (1000, 2000)
    assert (job.config.micro_batch, job.gradient_checkpointing) == (4, True)


def test_named_episodes_are_used_alone(desk: Desk) -> None:
    desk.begin()
    latest = desk.worker.job.episodes
    desk.worker.tell("error", message="next")
    desk.begin(source={"episodes": [latest[0]]})
    assert desk.worker.job.episodes == latest[:1]


def test_too_little_play_is_refused(desk: Desk, tmp_path: Path) -> None:
    short = record(tmp_path / "other", 20)
    with pytest.raises(EpisodeNotFound):
        desk.begin(source={"episodes": short})
    desk.begin()
    latest = desk.worker.job.episodes
    desk.worker.tell("error", message="next")
    with pytest.raises(NoPlayData, match="18 transitions in 20 durable steps"):
        desk.begin(source={"episodes": [latest[1]]})
    assert desk.begin()


def test_play_with_time_in_another_unit_is_not_asked_for_more_of(tmp_path: Path) -> None:
    with open_store(tmp_path / "play") as store:
        writer = store.start_episode(small_spec())
        for index in range(60):
            one = step(index, writer.spec)
            writer.append(replace(one, t_ns=one.t_ns // 1000))
        writer.seal()
    with pytest.raises(NoPlayData, match=r"0 transitions .* 0.0001 s apart .* nanoseconds") as said:
        Desk(tmp_path).begin()
    assert "record more" not in str(said.value)


def test_no_play_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoPlayData, match="needs at least 32"):
        Desk(tmp_path).begin()


def test_play_of_another_robot_is_neither_taken_nor_accepted(tmp_path: Path) -> None:
    (other,) = record(tmp_path / "play", 60, spec=small_spec(name="other"))
    desk = Desk(tmp_path)
    with pytest.raises(NoPlayData):
        desk.begin()
    with pytest.raises(EpisodeOfAnother, match="'other'"):
        desk.begin(source={"episodes": [other]})


def test_play_serves_every_spec_that_shares_its_w(tmp_path: Path) -> None:
    spec = small_spec()
    faster = spec.model_copy(update={"rate_hz": 20})
    record(tmp_path / "play", 60, spec=faster)
    (worded,) = record(
        tmp_path / "play", 60, spec=spec.model_copy(update={"default_instruction": "lift it"})
    )
    desk = Desk(tmp_path)
    desk.begin()
    assert desk.worker.job.episodes == (worded,)


def test_play_under_another_spec_of_the_robot_is_refused_by_what_differs(tmp_path: Path) -> None:
    (old,) = record(tmp_path / "play", 60, spec=small_spec().model_copy(update={"rate_hz": 20}))
    with pytest.raises(EpisodeOfAnother, match="differs in rate_hz"):
        Desk(tmp_path).begin(source={"episodes": [old]})


def test_sessions_that_ran_are_interrupted_after_a_restart(desk: Desk, tmp_path: Path) -> None:
    done = desk.begin()
    desk.worker.tell("error", message="done")
    running = desk.begin()
    desk.worker.align()
    again = Desk(tmp_path)
    assert again.sessions.get(done).error == "done"
    found = again.sessions.get(running)
    assert found.state == "interrupted"
    assert [session.id for session in again.sessions.list()] == [running, done]
    assert again.events(running) == ["end"]
    again.begin()


def test_closing_interrupts_what_runs(desk: Desk) -> None:
    session = desk.begin()
    desk.sessions.close()
    assert desk.sessions.get(session).state == "interrupted"
    assert desk.worker.is_closed
    assert desk.events(session)[-1] == "end"


def test_closing_ends_the_worker_whatever_fails_before(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(session: str) -> None:
        raise OSError(f"{session} cannot be released")

    desk.begin()
    monkeypatch.setattr(desk.recordings, "release", fail)
    with pytest.raises(OSError, match="cannot be released"):
        desk.sessions.close()
    assert desk.worker.is_closed


def test_damaged_session_file_does_not_stop_the_server(desk: Desk, tmp_path: Path) -> None:
    session = desk.begin()
    (tmp_path / "align" / f"{session}.json").write_text("{")
    again = Desk(tmp_path)
    with pytest.raises(UnknownSession):
        again.sessions.get(session)


def test_unknown_session_is_said(desk: Desk) -> None:
    with pytest.raises(UnknownSession, match="'nope'"):
        desk.sessions.get("nope")
    with pytest.raises(UnknownSession):
        desk.sessions.stop("nope")


def test_every_session_gets_a_version_of_its_own(desk: Desk) -> None:
    desk.begin()
    desk.worker.tell("error", message="no")
    desk.begin()
    assert [job.version for job in desk.worker.jobs] == [1, 2]

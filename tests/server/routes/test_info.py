from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from selfalign.data.spec import RobotSpec
from server.settings import SHIPPED_SPECS
from server.wire.codec import unpack
from server.wire.messages import InfoReply
from server.wire.problems import PROBLEM_MEDIA_TYPE, PROBLEMS
from tests.fakes.running import make_runtime, serving

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.testclient import TestClient

    from server.runtime import Runtime


def test_info_says_what_is_served(client: TestClient, runtime: Runtime) -> None:
    info = InfoReply.model_validate(client.get("/info").json())

    assert info.default_robot == "arm"
    assert info.model.variant == "dummy"
    assert info.model.base_sha256 == runtime.policy.base_sha256
    assert info.model.parameters > info.model.w_parameters > 0
    assert info.robots[0].spec["name"] == "arm"
    assert info.robots[0].w_version == 0


def test_info_comes_as_msgpack_too(client: TestClient) -> None:
    response = client.get("/info", headers={"accept": "application/msgpack"})

    assert unpack(response.content)["default_robot"] == "arm"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_other_hosts(client: TestClient, path: str) -> None:
    response = client.get(path)

    assert response.headers["content-type"].startswith("text/html")
    assert re.findall(r"(?:src|href|url|import|fetch)\W{1,3}(?:https?:)?//", response.text) == []


def test_the_home_page_says_what_this_is_and_where_to_read_on(client: TestClient) -> None:
    page = client.get("/").text

    for words in ("aligns itself", 'href="docs"', 'href="info"', "openpi", "arm", "dummy"):
        assert words in page


def test_a_problem_code_has_a_page(client: TestClient) -> None:
    for code, (status, title) in PROBLEMS.items():
        page = client.get(f"/problems/{code}")
        assert page.status_code == 200
        assert title in page.text
        assert str(status) in page.text
    assert client.get("/problems/none").status_code == 404


def test_the_page_about_a_full_store_names_what_helps(client: TestClient) -> None:
    page = client.get("/problems/store-full").text
    for words in ("selfalign-client play list", "play delete NAME", "SELFALIGN_QUOTA_BYTES"):
        assert words in page
    assert "selfalign-client align stop" in client.get("/problems/episode-in-use").text


@pytest.fixture
def operations(client: TestClient) -> dict[str, dict[str, Any]]:
    api = client.get("/openapi.json").json()
    return {
        f"{verb} {path}": operation
        for path, verbs in api["paths"].items()
        for verb, operation in verbs.items()
    }


def test_every_operation_has_an_id_a_summary_and_words(
    operations: dict[str, dict[str, Any]],
) -> None:
    ids = [operation["operationId"] for operation in operations.values()]

    assert len(set(ids)) == len(ids)
    for name, operation in operations.items():
        assert re.fullmatch(r"[a-z_]+", operation["operationId"]), name
        assert operation["summary"], name
        assert operation["description"], name


def test_act_is_documented_with_examples(operations: dict[str, dict[str, Any]]) -> None:
    act = operations["post /act"]

    assert set(act["requestBody"]["content"]) == {"application/json", "application/msgpack"}
    examples = act["requestBody"]["content"]["application/json"]["examples"]
    assert examples["observation"]["value"]["robot"] == "panda"
    assert examples["continuing_a_chunk"]["value"]["inference_delay"] == 1
    assert act["responses"]["200"]["content"]["application/json"]["example"]["w_version"] == 3
    assert "application/problem+json" in act["responses"]["422"]["content"]
    assert "503" in act["responses"]
    assert "$ref" not in str(act)


def test_every_example_of_a_request_can_be_sent_as_it_stands(tmp_path: Path) -> None:
    names = ("panda.yaml", "panda_joints.yaml")
    runtime = make_runtime(tmp_path, *(RobotSpec.from_file(SHIPPED_SPECS / n) for n in names))
    sent: dict[str, list[Any]] = {}
    with serving(runtime) as client:
        api = client.get("/openapi.json").json()
        for path, operation in _posts(api):
            content = operation.get("requestBody", {}).get("content", {})
            media = content.get("application/json", {})
            examples = media.get("examples") or {"": {"value": media.get("example")}}
            for example in examples.values() if media else ():
                sent.setdefault(path, []).append(client.post(path, json=example["value"]))

    assert {path: {r.status_code for r in replies} for path, replies in sent.items()} == {
        "/act": {200},
        "/play": {200},
        "/play/delete": {404},  # these episodes are not here
        "/align": {409},  # one step of play is not enough
        "/robots": {201},
    }
    assert sent["/align"][0].json()["code"] == "no-play-data"
    assert sent["/play/delete"][0].json()["code"] == "unknown-episode"


def test_refusals_are_documented_as_the_problems_that_they_are(
    operations: dict[str, dict[str, Any]],
) -> None:
    for name, operation in operations.items():
        for status, described in operation["responses"].items():
            if int(status) >= 400:
                assert set(described["content"]) == {PROBLEM_MEDIA_TYPE}, (name, status)
    for name, code in (
        ("post /w/rollback", "nothing-to-roll-back"),
        ("post /w/{version}/activate", "version-rejected"),
        ("post /play", "episode-sealed"),
        ("post /align", "unsupported-media-type"),
        ("get /w/{version}", "bad-request"),
    ):
        assert code in str(operations[name]["responses"]), name


def _posts(api: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(path, verbs["post"]) for path, verbs in api["paths"].items() if "post" in verbs]

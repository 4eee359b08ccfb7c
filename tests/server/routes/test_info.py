from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from server.wire.codec import unpack
from server.wire.messages import InfoReply
from server.wire.problems import PROBLEMS

if TYPE_CHECKING:
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


def test_the_example_of_a_request_is_one_that_the_model_reads() -> None:
    from server.routes.openapi import ACT_EXAMPLE
    from server.wire.images import decode_image
    from server.wire.messages import ActRequest

    request = ActRequest.model_validate(ACT_EXAMPLE)

    assert decode_image(request.images["front"]).shape == (1, 1, 3)

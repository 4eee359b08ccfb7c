"""What of a spec counts for W, and what does not."""

from typing import Any

import pytest

from selfalign.data.w_spec import differing_fields, w_spec_sha256
from tests.fakes.running import arm_spec

SPEC = arm_spec()
ACTION = [dimension.model_dump() for dimension in SPEC.action]
STATE = [dimension.model_dump() for dimension in SPEC.state]
CAMERAS = [camera.model_dump() for camera in SPEC.cameras]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("rate_hz", {"rate_hz": 10.0}),
        ("action", {"action": [ACTION[0] | {"high": 2.0}, ACTION[1]]}),
        ("action", {"action": [ACTION[0] | {"unit": "cm"}, ACTION[1]]}),
        ("action", {"action": ACTION[::-1]}),
        ("state", {"state": STATE[:2]}),
        ("state", {"state": [STATE[0] | {"low": -1.0}, *STATE[1:]]}),
        ("cameras", {"cameras": CAMERAS[:1]}),
        ("cameras", {"cameras": CAMERAS[::-1]}),
        ("cameras", {"cameras": [CAMERAS[0] | {"height": 4}, CAMERAS[1]]}),
        ("targets", {"targets": ["dx"], "max_step": [0.1, None]}),
    ],
)
def test_what_gives_numbers_their_meaning_counts(field: str, change: dict[str, Any]) -> None:
    other = arm_spec(**change)
    assert w_spec_sha256(other) != w_spec_sha256(SPEC)
    assert differing_fields(SPEC, other) == [field]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "arm-2"},
        {"default_instruction": "hold still"},
        {"max_step": [0.1, 0.2]},
        {"max_step": [None, None]},
    ],
)
def test_what_only_names_says_or_limits_does_not(change: dict[str, Any]) -> None:
    other = arm_spec(**change)
    assert other.digest != SPEC.digest
    assert w_spec_sha256(other) == w_spec_sha256(SPEC)
    assert differing_fields(SPEC, other) == []


def test_the_step_of_a_target_is_its_unit_and_counts() -> None:
    target = arm_spec(targets=["dx"], max_step=[0.1, None])
    wider = arm_spec(targets=["dx"], max_step=[0.2, None])
    limited = arm_spec(targets=["dx"], max_step=[0.1, 0.3])
    assert differing_fields(target, wider) == ["targets"]
    assert w_spec_sha256(limited) == w_spec_sha256(target)


def test_the_digest_is_for_ever() -> None:
    # It stands in files: a change here makes every W of every robot refuse to serve.
    assert w_spec_sha256(SPEC) == (
        "7699193ed104ee90309ecf17eeb8c35ee50b15baca4d165bc1c070fc32804a6c"
    )

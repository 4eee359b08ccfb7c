"""What a W is aligned for: the part of a robot spec that gives its numbers their meaning.

Cameras, state, action, rate, targets and kinematics count: change one, and W meets inputs, outputs
or alignment targets that it has not seen. The name, the default instruction and a `max_step` that
only limits (of an action that is no target) do not.
"""

import hashlib
import json
from typing import Any

from selfalign.data.spec import RobotSpec

_NOT_COUNTED = {"name", "default_instruction", "max_step", "targets"}


def w_spec_sha256(spec: RobotSpec) -> str:
    """The sha256 (hex) of what counts; two specs with the same one share W."""
    text = json.dumps(_counted(spec), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def differing_fields(one: RobotSpec, other: RobotSpec) -> list[str]:
    """Names of the fields that count and differ, sorted; none where the two share W."""
    a, b = _counted(one), _counted(other)
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def _counted(spec: RobotSpec) -> dict[str, Any]:
    # Fields at their default do not count, so that a field to come changes no digest.
    data = spec.model_dump(mode="json", exclude_defaults=True, exclude=_NOT_COUNTED)
    if spec.targets:
        steps = zip(spec.action, spec.max_step or (), strict=False)
        data["targets"] = {each.name: step for each, step in steps if each.name in spec.targets}
    return data

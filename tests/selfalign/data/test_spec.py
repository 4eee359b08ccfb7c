"""Robot specs: read, refused, written, identified."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfalign.data.spec import Dimension, RobotSpec
from selfalign.errors import SelfAlignError, SpecError
from tests.fakes.play_steps import small_spec

SHIPPED = sorted((Path(__file__).parents[3] / "server" / "specs").glob("*.yaml"))


def plain(**changes):
    """Return a valid spec as plain data, with fields changed."""
    return small_spec().model_dump(mode="json") | changes


def refused(**changes) -> str:
    with pytest.raises(SpecError) as caught:
        RobotSpec.from_mapping(plain(**changes))
    return str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_specs_are_valid_and_named_like_their_file(path):
    assert RobotSpec.from_file(path).name == path.stem


def test_specs_are_shipped():
    assert SHIPPED


def test_yaml_round_trip_keeps_content_and_digest(tmp_path):
    spec = RobotSpec.from_mapping(plain(max_step=[0.1, None], default_instruction="ü: play"))
    path = tmp_path / "spec.yaml"
    path.write_text(spec.to_yaml())
    assert RobotSpec.from_file(path) == spec
    assert RobotSpec.from_file(path).digest == spec.digest


def test_toml_is_read_too(tmp_path):
    path = tmp_path / "spec.toml"
    path.write_text(
        'name = "t"\nrate_hz = 20\n'
        'cameras = [{name = "front", height = 8, width = 8}]\n'
        'state = [{name = "j", unit = "rad", low = -1, high = 1}]\n'
        'action = [{name = "d", unit = "m", low = -1, high = 1}]\n'
    )
    assert RobotSpec.from_file(path).period_ns == 50_000_000


def test_digest_changes_with_any_content_but_not_with_number_style():
    assert RobotSpec.from_mapping(plain(rate_hz=10)).digest == small_spec().digest
    assert RobotSpec.from_mapping(plain(rate_hz=11)).digest != small_spec().digest
    assert RobotSpec.from_mapping(plain(max_step=[1, 1])).digest != small_spec().digest


def test_spec_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        small_spec().rate_hz = 5


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 65, "tab\t", None, 3])
def test_name_that_is_no_plain_identifier_is_refused(name):
    assert "name" in refused(name=name)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), "fast", 5000])
def test_impossible_rate_is_refused(rate):
    assert "rate_hz" in refused(rate_hz=rate)


@pytest.mark.parametrize("field", ["cameras", "state", "action"])
def test_robot_without_inputs_or_outputs_is_refused(field):
    assert field in refused(**{field: []})


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (1.0, 1.0),
        (2.0, 1.0),
        (float("nan"), 1.0),
        (0.0, float("nan")),
        (float("-inf"), 0.0),
        (-1e39, 0.0),
        (-3e38, 3e38),
        (1.0, 1.0 + 1e-12),
    ],
)
def test_limits_that_span_no_range_in_float32_are_refused(low, high):
    bad = {"name": "joint_7", "unit": "rad", "low": low, "high": high}
    assert "state.0" in refused(state=[bad])


@pytest.mark.parametrize("field", ["cameras", "state", "action"])
def test_repeated_name_is_refused_and_named(field):
    items = plain()[field]
    message = refused(**{field: [items[0], items[0]]})
    assert repr(items[0]["name"]) in message
    assert "twice" in message


def test_max_step_of_another_length_is_refused():
    assert "max_step has 3 entries" in refused(max_step=[1, 1, 1])


@pytest.mark.parametrize("step", [0, -0.1, float("nan"), float("inf")])
def test_max_step_that_is_not_positive_is_refused(step):
    assert "max_step" in refused(max_step=[step, 1])


def test_targets_name_actions_that_have_a_step(tmp_path):
    name = small_spec().action[1].name
    spec = RobotSpec.from_mapping(plain(max_step=[None, 0.1], targets=[name]))
    assert spec.targets == (name,)
    path = tmp_path / "spec.yaml"
    path.write_text(spec.to_yaml())
    assert RobotSpec.from_file(path) == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ["elbow"], "max_step": [1, 1]}, "'elbow' is none of"),
        ({"targets": [small_spec().action[0].name] * 2, "max_step": [1, 1]}, "appears twice"),
        ({"targets": [small_spec().action[0].name]}, "needs a max_step, but has none"),
        (
            {"targets": [small_spec().action[0].name], "max_step": [None, 1]},
            f"target {small_spec().action[0].name!r} needs a max_step",
        ),
    ],
)
def test_targets_that_cannot_be_are_refused(changes, message):
    assert message in refused(**changes)


def test_digest_of_a_robot_without_targets_is_what_it_was_before_there_were_any():
    # Play and W of earlier versions are known by these.
    known = {
        "panda": "192505d6b0c27068f198913e8e3047223cd88ee76f2851e8c5c20de2f20d6eca",
        "ur5e": "13ddc6eab94583bf860acdf9249211f386f9dc6c069fd7dd7c395baa1b6fbeba",
    }
    for path in SHIPPED:
        if path.stem in known:
            assert RobotSpec.from_file(path).digest == known[path.stem]
    steps = RobotSpec.from_mapping(plain(max_step=[1, 1]))
    marked = RobotSpec.from_mapping(plain(max_step=[1, 1], targets=[small_spec().action[0].name]))
    assert steps.digest != marked.digest
    assert RobotSpec.from_mapping(plain(targets=[])).digest == small_spec().digest


@pytest.mark.parametrize("size", [0, -1, 5000, 1.5])
def test_impossible_camera_size_is_refused(size):
    assert "cameras.0.height" in refused(cameras=[{"name": "c", "height": size, "width": 8}])


def test_camera_cannot_take_the_name_of_zarr_metadata():
    camera = {"name": "zarr.json", "height": 8, "width": 8}
    assert "another one" in refused(cameras=[camera])


def test_misspelt_field_is_refused():
    assert "rate" in refused(rate=10)


def test_a_field_that_is_none_is_told_those_that_there_are():
    assert "rate: there is no such field; there are name, rate_hz, cameras" in refused(rate=10)
    action = [{**plain()["action"][0], "min": 0}]
    assert "action.0.min: there is no such field; there are name, unit, low" in refused(
        action=action
    )
    action = [{**plain()["action"][0], "max_step": 0.1}]
    assert "max_step is one list for all actions" in refused(action=action)


def test_messages_speak_of_no_python():
    assert "max_step: Input should be a list (got 0.1)" in refused(max_step=0.1)
    assert "Value error" not in refused(max_step=[0.1] * 9)


def test_message_names_the_source_the_field_and_the_value():
    with pytest.raises(SpecError, match=r"body: rate_hz: .*got 'fast'"):
        RobotSpec.from_mapping(plain(rate_hz="fast"), source="body")


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_data_that_is_no_mapping_is_refused(data):
    with pytest.raises(SpecError, match="expected a mapping"):
        RobotSpec.from_mapping(data)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("spec.yaml", b"name: [", "not valid YAML"),
        ("spec.yaml", b"!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("spec.yaml", b"\xff\xfe\x00", "not valid YAML"),
        ("spec.yaml", b"", "expected a mapping"),
        ("spec.toml", b"name = ", "not valid TOML"),
        ("spec.json", b"{}", "expected a .yaml"),
        ("spec.yaml", b"#" * (1 << 20) + b"\n", "at most"),
    ],
)
def test_file_that_holds_no_spec_is_refused(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SpecError, match=said) as refused:
        RobotSpec.from_file(path)
    assert "\n" not in str(refused.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"gone\.yaml: cannot read"):
        RobotSpec.from_file(tmp_path / "gone.yaml")


@settings(deadline=None, max_examples=25)
@given(
    st.recursive(
        st.none() | st.floats() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
def test_arbitrary_data_never_raises_anything_but_our_error(data):
    with pytest.raises(SelfAlignError):
        RobotSpec.from_mapping(data)


@settings(deadline=None, max_examples=25)
@given(low=st.floats(), high=st.floats())
def test_accepted_limits_are_finite_and_ordered(low, high):
    try:
        dimension = Dimension(name="d", unit="1", low=low, high=high)
    except ValueError:
        assert not (abs(low) < 1e6 and abs(high) < 1e6 and high - low > 1)
    else:
        assert dimension.low < dimension.high < float("inf")

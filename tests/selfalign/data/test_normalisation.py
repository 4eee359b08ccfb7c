"""Normalisation by declared limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfalign.data.normalisation import NormalisationError, Normaliser
from selfalign.errors import SelfAlignError
from tests.fakes.play_steps import small_spec

LOW, HIGH = [-3.0, 0.0], [1.0, 0.08]


def test_limits_map_to_exactly_one_and_the_rest_is_zero():
    normaliser = Normaliser(LOW, HIGH, width=5)
    np.testing.assert_array_equal(normaliser.normalise(HIGH), [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(normaliser.normalise(LOW), [-1, -1, 0, 0, 0])
    np.testing.assert_array_equal(normaliser.normalise([-1.0, 0.04])[:2], [0, 0])


def test_values_beyond_the_limits_are_not_clipped():
    assert Normaliser(LOW, HIGH).normalise([3.0, 0.04])[0] == pytest.approx(2.0)


def test_padding_does_not_change_the_action():
    normaliser = Normaliser(LOW, HIGH, width=4)
    noisy = np.array([1.0, -1.0, 99.0, np.nan])
    np.testing.assert_array_equal(normaliser.denormalise(noisy), np.float32([1.0, 0.0]))


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (4, 7)])
def test_leading_axes_are_kept_and_dtype_is_float32(shape):
    normaliser = Normaliser(LOW, HIGH, width=8)
    padded = normaliser.normalise(np.zeros((*shape, 2)))
    assert padded.shape == (*shape, 8)
    assert padded.dtype == np.float32
    assert normaliser.denormalise(padded).shape == (*shape, 2)


@settings(deadline=None, max_examples=50)
@given(
    low=st.floats(-1e3, 1e3),
    span=st.floats(1e-2, 1e3),
    share=st.floats(-1, 2),
)
def test_denormalise_inverts_normalise(low, span, share):
    normaliser = Normaliser([low], [low + span], width=3)
    value = low + share * span
    back = normaliser.denormalise(normaliser.normalise([value]))
    # float32 rounds the normalised value and the result.
    assert back[0] == pytest.approx(value, abs=1e-5 * (abs(low) + span))


def test_mask_marks_the_real_dimensions():
    assert Normaliser(LOW, HIGH, width=4).mask.tolist() == [True, True, False, False]


def test_not_finite_stays_not_finite():
    normaliser = Normaliser(LOW, HIGH)
    assert np.isnan(normaliser.normalise([np.nan, 0])[0])
    assert not np.isfinite(normaliser.denormalise(np.full(32, np.inf))).any()


def test_spec_gives_both_normalisers():
    spec = small_spec()
    state, action = Normaliser.for_state(spec), Normaliser.for_action(spec, width=2)
    assert (state.dimensions, state.width) == (3, 32)
    assert (action.dimensions, action.width) == (2, 2)
    assert state.high.tolist() == [3.0] * 3


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ([0.0, np.nan], [1.0, 1.0]),
        ([0.0, 0.0], [1.0, np.nan]),
        ([0.0, 1.0], [1.0, 1.0]),
        ([0.0, -np.inf], [1.0, 1.0]),
    ],
)
def test_limit_that_spans_no_range_is_named(low, high):
    with pytest.raises(NormalisationError, match="dimension 1"):
        Normaliser(low, high)


@pytest.mark.parametrize(("low", "high"), [([0], [1, 1]), ([], []), ([[0]], [[1]])])
def test_limits_that_are_no_pair_of_vectors_are_refused(low, high):
    with pytest.raises(NormalisationError, match="two vectors"):
        Normaliser(low, high)


def test_more_dimensions_than_the_model_are_refused():
    with pytest.raises(NormalisationError, match="33 dimensions"):
        Normaliser(np.zeros(33), np.ones(33), width=32)


def test_wrong_last_axis_is_refused():
    normaliser = Normaliser(LOW, HIGH, width=4)
    with pytest.raises(SelfAlignError, match="must be 2"):
        normaliser.normalise(np.zeros(3))
    with pytest.raises(SelfAlignError, match="must be 4"):
        normaliser.denormalise(np.zeros((5, 2)))
    with pytest.raises(SelfAlignError, match="must be 2"):
        normaliser.normalise(1.0)


def test_limits_are_copied_and_cannot_be_changed():
    low = np.array(LOW)
    normaliser = Normaliser(low, HIGH)
    low[0] = 99
    assert normaliser.low[0] == LOW[0]
    with pytest.raises(ValueError, match="read-only"):
        normaliser.mask[0] = False

"""Rotations: each form is the inverse of the next, half turns included."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from selfalign.data.rotations import (
    cross_matrix,
    matrix_quaternion,
    matrix_vector,
    quaternion_matrix,
    vector_matrix,
)

vectors = hnp.arrays(np.float64, 3, elements=st.floats(-1.8, 1.8))
quaternions = hnp.arrays(np.float64, 4, elements=st.floats(-1, 1)).filter(
    lambda q: np.linalg.norm(q) > 0.1
)


@settings(max_examples=60, deadline=None)
@given(vectors)
def test_vector_survives_the_way_through_a_matrix(vector):
    matrix = vector_matrix(vector)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    # Shorter than half a turn (sqrt(3) * 1.8 < pi), so it comes back itself.
    np.testing.assert_allclose(matrix_vector(matrix), vector, atol=1e-8)


@settings(max_examples=60, deadline=None)
@given(quaternions)
def test_quaternion_survives_the_way_through_a_matrix_but_for_its_sign(quaternion):
    unit = quaternion / np.linalg.norm(quaternion)
    back = matrix_quaternion(quaternion_matrix(quaternion))
    np.testing.assert_allclose(back * np.sign(back @ unit), unit, atol=1e-7)
    assert back[0] >= 0


def test_half_turns_have_a_rotation_vector():
    for axis in np.eye(3):
        turn = vector_matrix(np.pi * axis)
        np.testing.assert_allclose(np.abs(matrix_vector(turn)), np.pi * axis, atol=1e-7)


def test_no_turn_is_the_zero_vector():
    assert np.array_equal(matrix_vector(np.eye(3)), np.zeros(3))
    assert np.array_equal(vector_matrix(np.zeros(3)), np.eye(3))


def test_leading_axes_are_kept_and_rows_independent():
    rng = np.random.default_rng(0)
    stack = rng.uniform(-1, 1, (2, 5, 3))
    whole = vector_matrix(stack)
    assert whole.shape == (2, 5, 3, 3)
    np.testing.assert_array_equal(whole[1, 3], vector_matrix(stack[1, 3]))
    np.testing.assert_allclose(matrix_vector(whole), stack, atol=1e-12)


def test_cross_matrix_is_the_cross_product():
    a, b = np.random.default_rng(1).normal(size=(2, 4, 3))
    np.testing.assert_allclose((cross_matrix(a) @ b[..., None])[..., 0], np.cross(a, b))

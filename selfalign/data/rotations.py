"""Rotations as quaternions, matrices and vectors, for whole arrays at once.

Shape key: `...` any leading shape. Quaternions are (w, x, y, z) of any length but zero; a rotation
vector is the axis times the angle in radians.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def quaternion_matrix(quaternion: ArrayLike) -> Floats:
    """Rotation matrices [..., 3, 3] of quaternions [..., 4]."""
    q = np.asarray(quaternion, np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_quaternion(matrix: ArrayLike) -> Floats:
    """Unit quaternions [..., 4] with w >= 0 of rotation matrices [..., 3, 3].

    Any of four formulas gives the quaternion; the one with the largest divisor is taken, so that
    half turns are as exact as all others.
    """
    m = np.asarray(matrix, np.float64)
    x, y, z = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    twist = np.stack([m[..., k, j] - m[..., j, k] for j, k in ((1, 2), (2, 0), (0, 1))], axis=-1)
    xy, xz, yz = (m[..., i, j] + m[..., j, i] for i, j in ((0, 1), (0, 2), (1, 2)))
    products = [
        [1 + x + y + z, twist[..., 0], twist[..., 1], twist[..., 2]],
        [twist[..., 0], 1 + x - y - z, xy, xz],
        [twist[..., 1], xy, 1 - x + y - z, yz],
        [twist[..., 2], xz, yz, 1 - x - y + z],
    ]
    table = np.stack([np.stack(row, axis=-1) for row in products], axis=-2)
    largest = np.argmax(np.diagonal(table, axis1=-2, axis2=-1), axis=-1)
    q = np.take_along_axis(table, largest[..., None, None], axis=-2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.where(q[..., :1] < 0, -q, q)


def vector_matrix(vector: ArrayLike) -> Floats:
    """Rotation matrices [..., 3, 3] of rotation vectors [..., 3]."""
    v = np.asarray(vector, np.float64)
    angle = np.linalg.norm(v, axis=-1, keepdims=True)
    # sin(a / 2) / a by the normalised sinc, which knows its limit at 0.
    scale = 0.5 * np.sinc(angle / (2 * np.pi))
    return quaternion_matrix(np.concatenate([np.cos(angle / 2), scale * v], axis=-1))


def matrix_vector(matrix: ArrayLike) -> Floats:
    """Rotation vectors [..., 3] of at most half a turn, of rotation matrices [..., 3, 3]."""
    q = matrix_quaternion(matrix)
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, q[..., :1])
    # For small angles angle / sin(angle / 2) is 2 to the last bit.
    return q[..., 1:] * np.where(sine < 1e-12, 2.0, angle / np.maximum(sine, 1e-12))


def cross_matrix(vector: ArrayLike) -> Floats:
    """Matrices [..., 3, 3] that take the cross product with vectors [..., 3] from the left."""
    x, y, z = np.moveaxis(np.asarray(vector, np.float64), -1, 0)
    zero = np.zeros_like(x)
    rows = [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)

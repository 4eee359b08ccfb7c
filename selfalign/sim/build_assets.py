"""Rebuild `assets/meshes.npz` from the wheels that ship the real robot meshes (maintainers only).

    pip download --no-deps dm-robotics-panda==0.4.8 ogbench==1.2.2
    pip install fast-simplification==0.2.0 scipy==1.17.0
    python -m selfalign.sim.build_assets dm_robotics_panda-*.whl ogbench-*.whl

Every mesh is reduced to at most `FACES` triangles and stored without normals or textures, because
rendering on a CPU costs by the vertex. Licences of the sources: `assets/LICENSES.md`.
"""

import argparse
import itertools
import zipfile
from pathlib import Path

import numpy as np

ASSETS = Path(__file__).parent / "assets"
FACES = {"panda": 170, "ur5e": 60}
FOLDERS = {
    "panda": "dm_robotics/panda/assets/panda/",
    "ur5e": "ogbench/manipspace/descriptions/universal_robots_ur5e/assets/",
}
PART_M = 0.05
SKIPPED = {"panda/hand", "panda/finger"}


def parse_obj(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices [n, 3] in metres and triangles [m, 3] of a Wavefront file."""
    vertices, faces = [], []
    for line in text.splitlines():
        if line.startswith("v "):
            vertices.append([float(value) for value in line.split()[1:4]])
        elif line.startswith("f "):
            corners = [int(corner.split("/")[0]) - 1 for corner in line.split()[1:]]
            faces += [[corners[0], b, c] for b, c in itertools.pairwise(corners[1:])]
    return np.array(vertices, np.float32), np.array(faces, np.int32)


def weld(
    vertices: np.ndarray, faces: np.ndarray, grid_m: float = 1e-4
) -> tuple[np.ndarray, np.ndarray]:
    """Join vertices of one grid cell and drop the triangles that collapse."""
    keys = np.round(vertices / grid_m).astype(np.int64)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    faces = inverse.reshape(-1)[faces]
    distinct = (
        (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
    )
    return vertices[first], faces[distinct].astype(np.int32)


def reduce_mesh(vertices: np.ndarray, faces: np.ndarray, limit: int) -> dict[str, np.ndarray]:
    """Decimate to at most about `limit` triangles.

    A mesh of many loose parts (bolts, rings) cannot be decimated far enough part by part, so its
    vertices are first welded on an ever coarser grid, which swallows the smallest parts.
    """
    import fast_simplification

    for grid_m in (1e-4, 1e-3, 2e-3, 4e-3, 6e-3, 8e-3, 1e-2):
        vertices, faces = weld(vertices, faces, grid_m)
        if len(faces) > limit:
            vertices, faces = fast_simplification.simplify(
                vertices, faces, target_count=limit, agg=5.0
            )
            vertices, faces = weld(vertices, faces)
        if len(faces) <= 1.2 * limit:
            break
    used, compact = np.unique(faces, return_inverse=True)
    return {
        "vertices": vertices[used].astype(np.float32).round(4),
        "faces": compact.reshape(-1, 3).astype(np.uint16),
    }


def hull_parts(vertices: np.ndarray, faces: np.ndarray, limit: int) -> dict[str, np.ndarray]:
    """Replace each connected part longer than `PART_M` by its convex hull, decimated to `limit`.

    The UR5e's shells are thin, many and loose; decimating them directly tears holes.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import ConvexHull

    vertices, faces = weld(vertices, faces)
    edges = np.concatenate([faces[:, :2], faces[:, 1:]])
    graph = coo_matrix((np.ones(len(edges)), edges.T), shape=(len(vertices),) * 2)
    _, labels = connected_components(graph, directed=False)
    parts = []
    for label in np.unique(labels):
        points = vertices[labels == label]
        if np.linalg.norm(np.ptp(points, axis=0)) < PART_M:
            continue
        hull = ConvexHull(points)
        inwards = np.einsum("ij,ij->i", _normals(points, hull.simplices), hull.equations[:, :3]) < 0
        hull.simplices[inwards] = hull.simplices[inwards][:, ::-1]
        parts.append(reduce_mesh(points, hull.simplices.astype(np.int32), limit))
    starts = np.cumsum([0, *(len(part["vertices"]) for part in parts)])
    shifted = [part["faces"] + start for part, start in zip(parts, starts, strict=False)]
    return {
        "vertices": np.concatenate([part["vertices"] for part in parts]),
        "faces": np.concatenate(shifted).astype(np.uint16),
    }


def _normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    first, second, third = (points[faces[:, corner]] for corner in range(3))
    return np.cross(second - first, third - first)


def meshes_of(wheel: Path, arm: str) -> dict[str, np.ndarray]:
    """Return `"<arm>/<mesh>/vertices"` and `".../faces"` for every mesh of one wheel."""
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            key = f"{arm}/{Path(name).stem}"
            if not name.startswith(FOLDERS[arm]) or not name.endswith(".obj") or key in SKIPPED:
                continue
            reduce = hull_parts if arm == "ur5e" else reduce_mesh
            mesh = reduce(*parse_obj(archive.read(name).decode()), FACES[arm])
            arrays |= {f"{key}/{part}": array for part, array in mesh.items()}
    return arrays


def main() -> None:
    """Write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("panda_wheel", type=Path)
    parser.add_argument("ur5e_wheel", type=Path)
    arguments = parser.parse_args()
    arrays = meshes_of(arguments.panda_wheel, "panda") | meshes_of(arguments.ur5e_wheel, "ur5e")
    np.savez_compressed(ASSETS / "meshes.npz", allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()

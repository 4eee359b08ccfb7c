"""What a LeRobotDataset says about itself in meta/info.json, and how its tables are opened.

    meta/info.json                                 version, rate, features, where files lie
    meta/stats.json                                min, max, mean ... of every feature
    meta/tasks.parquet                             text of each task_index
    meta/episodes/chunk-000/file-000.parquet       one row an episode: its files and lengths
    data/chunk-000/file-000.parquet                one row a frame, many episodes a file
    videos/<feature>/chunk-000/file-000.mp4        many episodes a file, one after another

That is version 3.0; version 2.1 has one data file and one video an episode, and JSON lines in meta.
"""

import json
from pathlib import Path
from typing import Any, Literal, Self, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from selfalign.errors import StoreError

INFO = "meta/info.json"
# Ours: limits and units, which the format does not know. Export writes it.
ROBOT_SPEC = "meta/robot_spec.yaml"
STATE, ACTION = "observation.state", "action"
INSTALL = "pip install 'selfalign-server[lerobot]'"

_CHANNELS = 3
_NUMBERS = ("float16", "float32", "float64")


@final
class LeRobotError(StoreError):
    """A LeRobotDataset cannot be read: says which file and field, what it holds, what is needed."""

    def __init__(self, file: Path, field: str, problem: str) -> None:
        super().__init__(f"{file}: {field}: {problem}" if field else f"{file}: {problem}")
        self.file, self.field = file, field


@final
class Feature(BaseModel):
    """One column of a dataset: a vector of numbers, or images as files or as video."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    dtype: str
    shape: tuple[int, ...] = ()
    names: Any = None
    info: dict[str, Any] | None = None
    video_info: dict[str, Any] | None = None

    @property
    def is_camera(self) -> bool:
        """Whether it is a colour camera. Depth maps are none."""
        details = (self.info or {}) | (self.video_info or {})
        depth = details.get("is_depth_map") or details.get("video.is_depth_map")
        return self.dtype in ("image", "video") and not depth and _CHANNELS in self.shape

    @property
    def is_numbers(self) -> bool:
        """Whether it is a vector of floating-point numbers."""
        return self.dtype in _NUMBERS and len(self.shape) == 1

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of a camera [pixel]: the shape holds channels last, or first."""
        rows_first = self.shape[-1] == _CHANNELS
        height, width = self.shape[:2] if rows_first else self.shape[1:]
        return height, width


@final
class DatasetInfo(BaseModel):
    """meta/info.json. What else it holds is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    codebase_version: str
    fps: float = Field(gt=0, le=1000, allow_inf_nan=False)
    features: dict[str, Feature]
    data_path: str
    video_path: str | None = None
    robot_type: str | None = None
    total_episodes: int = Field(ge=0)
    chunks_size: int = Field(1000, ge=1)

    @model_validator(mode="after")
    def _videos_lie_somewhere(self) -> Self:
        videos = [key for key, feature in self.features.items() if feature.dtype == "video"]
        if videos and not self.video_path:
            raise ValueError(f"video_path is missing, but {videos[0]} is stored as video")
        return self

    @property
    def layout(self) -> Literal["v3", "v2.1"]:
        """Which of the two layouts of files this is."""
        return "v3" if self.codebase_version.startswith("v3.") else "v2.1"

    @property
    def cameras(self) -> dict[str, Feature]:
        """The colour cameras by feature."""
        return {key: feature for key, feature in self.features.items() if feature.is_camera}

    @classmethod
    def load(cls, root: Path) -> Self:
        """Read it.

        Raises:
            LeRobotError: it is not there, not valid, of another version, or has not what a robot
                needs: a camera, a state and an action.
        """
        file = root / INFO
        try:
            info = cls.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            message = "does not exist; a LeRobotDataset has it"
            raise LeRobotError(file, "", message) from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise LeRobotError(file, field, first["msg"]) from None
        info.check(file)
        return info

    def check(self, file: Path) -> None:
        """Raise LeRobotError if this cannot be a robot's play."""
        if not self.codebase_version.startswith(("v3.", "v2.1")):
            raise LeRobotError(
                file,
                "codebase_version",
                f"is {self.codebase_version}, but v3.x and v2.1 can be read; bring it to v3.0 with "
                "lerobot's own script convert_dataset_v21_to_v30 (from v2.0: to v2.1 first)",
            )
        for name in (STATE, ACTION):
            feature = self.features.get(name)
            if feature is None or not feature.is_numbers:
                got = "is missing" if feature is None else f"is {feature.dtype} {feature.shape}"
                message = f"{got}; expected a vector of float32"
                raise LeRobotError(file, f"features.{name}", message)
        if not self.cameras:
            held = ", ".join(sorted(self.features))
            message = f"hold no colour camera (dtype image or video, 3 channels), only {held}"
            raise LeRobotError(file, "features", message)


def read_table(file: Path, columns: list[str], **options: Any) -> Any:
    """Read columns of a parquet file as a pyarrow table.

    Raises:
        LeRobotError: pyarrow is not installed, the file is missing or broken, or lacks a column.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise LeRobotError(file, "", f"reading it needs pyarrow: {INSTALL}") from None
    try:
        held = parquet.read_schema(file).names
        for column in columns:
            if column not in held:
                raise LeRobotError(file, column, "no such column")
        return parquet.read_table(file, columns=columns, partitioning=None, **options)
    except FileNotFoundError:
        raise LeRobotError(file, "", "does not exist") from None
    except (pa.ArrowException, OSError) as error:
        raise LeRobotError(file, "", f"cannot be read as parquet: {error}") from error


def column_names(file: Path) -> list[str]:
    """The columns of a parquet file. Raises as `read_table`."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise LeRobotError(file, "", f"reading it needs pyarrow: {INSTALL}") from None
    try:
        names: list[str] = parquet.read_schema(file).names
    except FileNotFoundError:
        raise LeRobotError(file, "", "does not exist") from None
    except (ArrowException, OSError) as error:
        raise LeRobotError(file, "", f"cannot be read as parquet: {error}") from error
    return names


def read_json(file: Path) -> Any:
    """Read a JSON file. Raises LeRobotError when it is missing or broken."""
    return read_lines(file, one=True)[0]


def read_lines(file: Path, *, one: bool = False) -> list[Any]:
    """Read JSON lines, or with `one` a file that is a single value. Raises as `read_json`."""
    try:
        text = file.read_text(encoding="utf-8")
        parts = [text] if one else [line for line in text.splitlines() if line.strip()]
        return [json.loads(part) for part in parts]
    except FileNotFoundError:
        raise LeRobotError(file, "", "does not exist") from None
    except ValueError as error:
        raise LeRobotError(file, "", f"is not valid JSON: {error}") from error

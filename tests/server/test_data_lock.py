from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from server.data_lock import DataDirInUse, DataDirUnusable, DataLock
from tests.fakes.running import make_runtime, serving

if TYPE_CHECKING:
    from pathlib import Path


def test_a_second_server_on_the_same_data_is_told_who_has_it(tmp_path: Path) -> None:
    first = DataLock(tmp_path / "data")

    with pytest.raises(DataDirInUse, match=rf"in use by another server \(process {os.getpid()}\)"):
        DataLock(tmp_path / "data")

    first.release()
    first.release()
    DataLock(tmp_path / "data").release()


def test_a_runtime_holds_its_data_until_it_is_closed(tmp_path: Path) -> None:
    with serving(make_runtime(tmp_path)), pytest.raises(DataDirInUse):
        make_runtime(tmp_path)

    with serving(make_runtime(tmp_path)) as client:
        assert client.get("/readyz").status_code == 200


def test_a_data_directory_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_text("no directory")

    for root in (file, file / "below"):
        with pytest.raises(
            DataDirUnusable, match=f"data directory {root} cannot be used: .*--data-dir"
        ):
            DataLock(root)

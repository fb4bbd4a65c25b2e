"""Files of a run folder: whole, on the disk, and nobody else's."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mamlrl.run_folder.files import write_whole


def test_a_file_and_its_name_are_on_the_disk_when_writing_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operations: list[tuple[str, str]] = []

    def noted(name: str, kind: Callable[..., str], function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            operations.append((name, kind(*arguments)))
            return function(*arguments)

        return call

    def what(descriptor: int) -> str:
        return "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"

    monkeypatch.setattr(os, "fsync", noted("fsync", what, os.fsync))
    monkeypatch.setattr(os, "replace", noted("replace", lambda old, new: Path(new).name, os.replace))
    write_whole(tmp_path / "checkpoint.pt", b"content")
    assert operations == [("fsync", "file"), ("replace", "checkpoint.pt"), ("fsync", "folder")]
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"content"


@pytest.mark.parametrize(("number", "raised"), [(errno.EINVAL, False), (errno.EIO, True), (errno.ENOSPC, True)])
def test_a_folder_that_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raised: bool
) -> None:
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    path = tmp_path / "checkpoint.pt"
    if raised:
        with pytest.raises(OSError, match=r"checkpoint\.pt"):
            write_whole(path, b"content")
    else:
        write_whole(path, b"content")
    assert [found.name for found in tmp_path.iterdir()] == ["checkpoint.pt"]

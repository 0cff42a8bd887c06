"""Folders that appear whole or not at all, and lose nothing that is somebody else's."""

from __future__ import annotations

from contextlib import suppress

import pytest

from hlip.files.folders import recover, whole_folder

OURS = {"a", "b"}


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    with whole_folder(target, OURS) as partial:
        (partial / "a").write_text("old")
    with suppress(ZeroDivisionError), whole_folder(target, OURS) as partial:
        (partial / "a").write_text(str(1 / 0))
    assert (target / "a").read_text() == "old"
    with whole_folder(target, OURS) as partial:
        (partial / "b").write_text("new")
    assert [path.name for path in target.iterdir()] == ["b"]
    target.rename(tmp_path / ".model.previous")  # a crash between the two moves
    recover(target)
    assert (target / "b").read_text() == "new"


def test_what_is_not_ours_stays(tmp_path):
    target = tmp_path / "model"
    with whole_folder(target, OURS) as partial:
        (partial / "a").write_text("old")
    (target / "notes").mkdir()
    (target / "notes" / "thesis.txt").write_text("years")
    with whole_folder(target, OURS) as partial:
        (partial / "b").write_text("new")
    assert sorted(path.name for path in target.iterdir()) == ["b", "notes"]
    assert (target / "notes" / "thesis.txt").read_text() == "years"


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years")
    with pytest.raises(FileExistsError, match=r"full: holds thesis\.txt"), whole_folder(tmp_path / "full", OURS):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    with pytest.raises(NotADirectoryError, match="a file stands there"), whole_folder(tmp_path / "full" / "thesis.txt", OURS):
        pass

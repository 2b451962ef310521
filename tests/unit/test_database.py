"""The database is set up wherever the program and its data are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from worker.settings import Settings
from worker.store import Database, database
from worker.store.tables import TrainingRun


def use(opened: Database) -> None:
    opened.migrate()
    with opened.session() as session:
        session.add(TrainingRun(project="1", reason="test"))
    opened.close()


@pytest.mark.parametrize("name", ["what?mode=ro", "100%", "a#b", "two words"])
def test_the_database_lies_in_the_data_folder_whatever_its_name(name: str, tmp_path: Path) -> None:
    use(Database(Settings(data_dir=tmp_path / name)))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "pixellm.db").stat().st_size


def test_the_program_may_be_installed_in_a_folder_with_a_percent_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = shutil.copytree(database.MIGRATIONS, tmp_path / "100%(here)s" / "migrations")
    monkeypatch.setattr(database, "MIGRATIONS", installed)
    use(Database(Settings(data_dir=tmp_path / "data")))

"""Studies: rows are kept, loaded, and made again only where that is asked for."""

from __future__ import annotations

import json

import pytest

from mmhelpers.course import artifacts, profiles, studies


def test_a_study_is_resumed_shipped_and_never_overwritten_by_a_lesson(tmp_path, monkeypatch):
    monkeypatch.setenv("MM_NOTEBOOKS", str(tmp_path))
    monkeypatch.setenv("MM_STUDIES", "2")
    laptop = artifacts.Workspace(tmp_path / "artifacts" / "laptop" / "shop", profiles.PROFILES["laptop"], "shop")
    calls = []

    def measure(value):
        calls.append(value)
        return {"recall@1": value}

    made = studies.study(laptop, "arms", {"steps": 3})
    assert made.seeds == (0, 1)
    for _ in range(2):  # stopped and started again
        for seed in made.seeds:
            made.row(lambda seed=seed: measure(seed / 2), arm="longer", seed=seed)
    assert calls == [0.0, 0.5], "a row is made once"
    before = (file := tmp_path / "studies" / "arms.json").read_bytes()

    monkeypatch.delenv("MM_STUDIES")
    loaded = studies.study(laptop, "arms", {"steps": 3})
    assert loaded.shipped and loaded.seeds == (0, 1) and loaded.row(measure, arm="longer", seed=1)["recall@1"] == 0.5
    with pytest.raises(studies.StudyError, match=r"arms.json has no row \(arm longer, seed 0\).*RERUN = True"):
        studies.study(laptop, "arms", {"steps": 4}).row(measure, arm="longer", seed=0)
    anew = studies.study(laptop, "arms", {"steps": 4}, rerun=True)
    assert anew.row(lambda: measure(0.9), arm="longer", seed=0)["recall@1"] == 0.9
    assert file.read_bytes() == before and len(json.loads(before)["rows"]) == 2

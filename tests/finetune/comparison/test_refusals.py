"""Options of `hlip compare` that the inputs cannot serve are refused by name, before any work and without a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hlip.cli
from finetune.comparison.refusals import on_the_stores_studies, refuse_efficiency, trained_on
from hlip.store import Store
from hlip.taxonomy import Taxonomy
from hp2l.comparison.scores import CompareError, Scores, provenance_of

TREE = Taxonomy.load("brain_mri")
NAMES = [list(level) for level in TREE.levels]


def table(ids: list[str], **source: Any) -> Scores:
    generator = np.random.default_rng(0)
    levels = [generator.random((len(ids), len(names))) for names in NAMES]
    split = ["val" if n % 3 == 0 else "test" for n in range(len(ids))]
    scores = Scores("m", ids, ids, split, levels, provenance_of(TREE, **source))
    return scores.with_truth(
        NAMES, [generator.random(level.shape) < 0.5 for level in levels], [np.ones_like(v) for v in levels]
    )


@pytest.fixture(scope="module")
def places(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("tables")
    for name in ("a", "b"):
        table([f"x{n}" for n in range(30)], kind="zero_shot").save(folder / f"{name}.parquet")
    return {"A": str(folder / "a.parquet"), "B": str(folder / "b.parquet"), "STORE": str(tiny_store)}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("A B --resamples 0", "--resamples 0: a 95 % interval needs 100"),
        ("A B --resamples -5", "--resamples -5: a 95 % interval needs 100"),
        ("A B --resamples 99", "--resamples 99: a 95 % interval needs 100"),
        ("A B --seed -1", "--seed -1: give 0 or more"),
        ("A B --robustness", "--robustness asks the models again, and the inputs are tables only"),
        ("A B --robustness --store STORE", "--robustness asks the models again, and the inputs are tables only"),
        ("A model --robustness --store STORE", "is a table: give models only, or leave --robustness out"),
        ("A B --efficiency run", "--efficiency scores its runs on a store: --store names it"),
        ("A --mean", "--mean is of two inputs or more"),
        ("A B --taxonomy leukemia", "--taxonomy leukemia: the table m was scored on brain_mri; leave --taxonomy out"),
        ("A B --store STORE", "--store and a score different studies"),
    ],
)
def test_what_the_inputs_cannot_serve_is_refused_by_name(
    line: str, said: str, places: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [places.get(word, word) for word in line.split()]
    with pytest.raises(SystemExit) as caught:
        hlip.cli.main(["compare", *words, "--out", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_efficiency_needs_a_flat_line_and_runs_that_say_their_size() -> None:
    flat, tuned = table(["a"], kind="zero_shot"), table(["a"], kind="fine_tuned", facts={"studies": 12})
    refuse_efficiency(["zero_shot", None, "fine_tuned"])
    assert trained_on(tuned) == 12
    with pytest.raises(CompareError, match="--efficiency needs a zero-shot input"):
        refuse_efficiency(["fine_tuned"])
    with pytest.raises(CompareError, match="--efficiency needs a fine-tuned input"):
        refuse_efficiency(["zero_shot", None])
    for other in (flat, table(["a"], kind="fine_tuned"), table(["a"], kind="fine_tuned", facts={})):
        with pytest.raises(CompareError, match="--efficiency: m does not say on how many"):
            trained_on(other)


def test_tables_follow_the_stores_order_and_must_agree_with_it(tiny_store: Path) -> None:
    assert Store(tiny_store).records
    store = table([f"x{n}" for n in range(9)])
    turned = store.reordered(store.study_ids[::-1])
    found = on_the_stores_studies(store, [turned], False)[0]
    assert found.study_ids == store.study_ids
    np.testing.assert_array_equal(found.levels[1], store.levels[1])
    assert store.labels is not None
    other = replace(turned, labels=[1 - level for level in store.labels])
    with pytest.raises(CompareError, match="hold different truths"):
        on_the_stores_studies(store, [other], False)

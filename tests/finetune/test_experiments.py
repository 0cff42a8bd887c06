"""Experiments: one run a configuration, measures that a hand can check, the published order beside ours, a page that can be made again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.experiments import measures, runs
from finetune.experiments.cli import add_experiments
from finetune.experiments.measures import Measured, Test, exact_interval, leaf_distances, level_numbers, measure
from finetune.experiments.page import percent
from finetune.experiments.plan import (
    Experiment,
    ExperimentError,
    Setting,
    Variant,
    experiments,
    jobs,
    make_job,
    parse_overrides,
    suited,
)
from finetune.experiments.verdict import answers, hints, order
from hlip.model import HLIP, HLIPConfig
from hlip.store import Store, StudyRecord
from hlip.taxonomy import Taxonomy
from hlip.text import TextConfig, grow_text_source
from hlip.vision import VisionConfig
from hp2l.diagnoser import load

pytestmark = pytest.mark.usefixtures("fresh_engine")

TINY = Path(__file__).with_name("tiny.yaml")
TREE = Taxonomy.from_dict(
    {
        "name": "small",
        "level_names": ["top", "leaf"],
        "classes": [
            {"name": "A", "children": [{"name": "a1"}, {"name": "a2"}]},
            {"name": "B", "children": [{"name": "b1"}, {"name": "b2"}]},
        ],
    }
)


# --- the plan --------------------------------------------------------------------------------------------------------


def setting(folder: Path, **more) -> Setting:
    return Setting(folder / "encoder", folder / "store", folder / "out", **more)


def write_experiment(path: Path, variants: str, reference: str = "hp2l") -> Path:
    path.write_text(f"title: T\nquestion: Q?\nreference: {reference}\nvariants:\n{variants}")
    return path


def test_the_built_in_experiments_are_valid_and_share_their_runs(tmp_path):
    found = experiments()
    assert found[0].name == "main_table"
    assert {e.name for e in found} >= {
        "prompt",
        "prototypes",
        "depth",
        "taxonomy",
        "momentum",
        "prototype_start",
        "consistency",
    }
    distinct, places = jobs(found, setting(tmp_path))
    own = [
        places[experiment.name, "hp2l"] for experiment in found if experiment.name != "level_start"
    ]  # that one has its own width
    assert len(set(own)) == 1  # the method itself is trained once
    assert places["dependency", "linear"] == places["main_table", "linear"]
    assert len(places) - len(distinct) == len(own) - 1 + 1  # and nothing else stands twice
    kinds = {job.config.head.kind for job in distinct.values()}
    assert kinds == {"hp2l", "transhp", "decision_tree", "prompt_vit", "isolated", "cascade", "nearest", "linear", "flat"}
    depths = [job.tree.counts for key, job in distinct.items() if key in [places["depth", f"depth_{n}"] for n in (1, 2)]]
    assert sorted(depths) == [(4, 16), (16,)]


def test_a_run_is_known_by_what_decides_it_and_by_nothing_else(tmp_path):
    same = Variant("x", "X", {"head.momentum": 0.99, "loss.consistency": "0.5"})  # what the configuration says anyway
    plain = make_job(Variant("hp2l", "HP2L"), setting(tmp_path))
    assert make_job(same, setting(tmp_path)).key == plain.key
    assert make_job(same, setting(tmp_path / "elsewhere", threads=2)).key == plain.key
    others = [
        make_job(Variant("m", "M", {"head.momentum": 0.9}), setting(tmp_path)),
        make_job(Variant("t", "T", {"taxonomy": "brain_mri_clinical"}), setting(tmp_path)),
        make_job(Variant("d", "D", depth=2), setting(tmp_path)),
        make_job(Variant("hp2l", "HP2L"), setting(tmp_path, steps=7)),
        make_job(Variant("hp2l", "HP2L"), setting(tmp_path, data="another encoder")),
    ]
    assert len({plain.key, *(job.key for job in others)}) == 6
    assert others[3].config.steps == 7
    assert Taxonomy.load(others[2].config.taxonomy) == Taxonomy.load("brain_mri").to_depth(2)


@pytest.mark.parametrize(
    ("variants", "says"),
    [
        (" - {name: other, label: O}\n", "reference 'hp2l'"),
        (" - {name: hp2l, label: H, colour: red}\n", "colour"),
        (" - {name: hp2l, label: H, published: {auc: 3}}\n", "published"),
        (" - {name: hp2l, label: H, overrides: {steps: 3}}\n", "steps"),
    ],
)
def test_a_wrong_experiment_is_named_with_its_fault(tmp_path, variants, says):
    with pytest.raises(ExperimentError, match=says):
        Experiment.load(write_experiment(tmp_path / "e.yaml", variants))


def test_a_choice_of_variants_moves_the_reference_if_it_must():
    (chosen,) = experiments(["prompt"], ["learnable", "none"])
    assert [variant.name for variant in chosen.variants] == ["learnable", "none"]
    assert chosen.reference == "learnable"
    with pytest.raises(ExperimentError, match="no variant nonsense"):
        experiments(["prompt"], ["nonsense"])


# --- the measures ----------------------------------------------------------------------------------------------------


def test_overrides_and_the_tree_hold_for_all_variants_below_their_own(tmp_path):
    given = setting(tmp_path, overrides=parse_overrides(["head.width=72", "head.momentum=0.5"]), taxonomy="brain_mri_2level")
    plain, own = make_job(Variant("hp2l", "HP2L"), given), make_job(Variant("m", "M", {"head.momentum": 0.9}), given)
    assert (plain.config.head.width, plain.config.head.momentum, plain.tree.depth) == (72, 0.5, 2)
    assert (own.config.head.width, own.config.head.momentum) == (72, 0.9)
    assert plain.key != make_job(Variant("hp2l", "HP2L"), setting(tmp_path)).key
    with pytest.raises(SystemExit):
        make_job(Variant("hp2l", "HP2L"), setting(tmp_path, overrides=parse_overrides(["head.widht=72"])))
    for wrong, says in (("head.width", "KEY=VALUE"), ("steps=3", "steps itself"), ("taxonomy=x", "taxonomy itself")):
        with pytest.raises(ExperimentError, match=says):
            parse_overrides([wrong])


def test_variants_with_a_tree_of_their_own_are_left_out_where_one_is_given(tmp_path):
    kept, sentences = suited(experiments(["taxonomy", "depth"]), setting(tmp_path))
    assert ([e.name for e in kept], sentences) == (["taxonomy", "depth"], [])
    kept, sentences = suited(experiments(["taxonomy", "depth"]), setting(tmp_path, taxonomy="brain_mri_flat"))
    assert [e.name for e in kept] == ["depth"]
    assert [variant.name for variant in kept[0].variants] == ["hp2l", "depth_1"]
    assert len(sentences) == 2
    assert "Tree B, clinical (5 / 6 / 16); it has a tree of its own (brain_mri_clinical)" in sentences[0]
    assert "2 levels; it cuts the tree to 2 levels, and there are 1" in sentences[1]


def test_the_page_shows_every_built_in_experiment_whose_runs_are_there(tmp_path):
    given = setting(tmp_path)
    (whole,) = experiments(["averaging"])
    done, places = jobs([whole], given)
    for seed in (0, 1):
        for job in done.values():
            job.folder(given, seed).mkdir(parents=True)
            (job.folder(given, seed) / "result.json").touch()
    part, other = experiments(["averaging"], ["first"])[0], experiments(["momentum"])[0]
    mine = Experiment.load(write_experiment(tmp_path / "mine.yaml", " - {name: hp2l, label: H}\n"))
    assert runs.on_page([part], given, 2) == [whole]
    assert runs.on_page([other, mine], given, 2) == [whole, other, mine]
    assert runs.on_page([mine], given, 3) == [mine]  # the third seed is not there
    assert runs.on_page([mine], setting(tmp_path, steps=9), 2) == [mine]
    same = Experiment.load(write_experiment(tmp_path / "averaging.yaml", " - {name: hp2l, label: H}\n"))
    assert runs.on_page([same], given, 2) == [same]  # the file stands in its place
    (done[places["averaging", "first"]].folder(given, 1) / "result.json").unlink()
    assert runs.on_page([part], given, 2) == [part]
    with pytest.raises(ExperimentError, match="two experiments of one name"):
        experiments(["averaging", str(tmp_path / "averaging.yaml")])


def records(labels: list[list[str]], patients: list[str] | None = None) -> list[StudyRecord]:
    names = patients or [f"p{number}" for number in range(len(labels))]
    return [StudyRecord(f"s{i}", names[i], ("T1",), "", (), tuple(given), "test", {}) for i, given in enumerate(labels)]


def one_hot(count: int, best: list[int]) -> np.ndarray:
    """Scores 0.9 for one class a study, 0.1 for the others."""
    return np.where(np.arange(count) == np.array(best)[:, None], 0.9, 0.1)


def test_distances_in_the_tree_are_edges_by_way_of_the_nearest_common_ancestor():
    tree = Taxonomy.load("brain_mri")
    names, edges = tree.levels[-1], leaf_distances(tree)
    far = lambda one, other: edges[names.index(one), names.index(other)]  # noqa: E731
    assert far("glioma", "glioma") == 0
    assert far("glioma", "meningioma") == 2
    assert far("glioma", "Alzheimer's disease") == 4  # tumor - occupying - degeneration
    assert far("glioma", "acute infarction") == 6  # by the root
    assert far("white matter hyperintensity", "acute infarction") == 3  # hangs from vascular directly
    assert far("normal", "glioma") == 4
    assert (leaf_distances(tree.to_depth(1)) == 2 * (1 - np.eye(16))).all()


def test_recovery_and_distance_counted_by_hand():
    labels = [["a1"], ["a1"], ["a2"], ["b1"], ["b2"], ["a1", "b1"]]
    test = Test.of([], records(labels), TREE, resamples=0)
    top = one_hot(2, [0, 1, 1, 1, 0, 0])  # right, wrong, wrong, right, wrong, right
    leaf = one_hot(4, [0, 0, 2, 3, 3, 3])  # right, right (recovered), wrong, wrong, right (recovered), wrong
    pairs = measures.recovery([top, leaf], test)
    sums = {name: (above.sum(), below.sum()) for name, (above, below) in pairs.items()}
    assert sums == {"wrong_first": (3, 6), "recovery": (2, 3), "kept": (1, 3)}
    above, below = measures.distance(leaf, test)["distance"]
    assert above.tolist() == [0, 0, 4, 2, 0, 2]  # b1 for a2: by the root; b2 for b1; b2 where b1 is the nearest of two labels
    assert below.tolist() == [0, 0, 1, 1, 0, 1]


NORMAL = Taxonomy.from_dict(
    {
        **TREE.to_dict(),
        "classes": [*TREE.to_dict()["classes"], {"name": "normal", "normal": True, "levels": [1, 2]}],
    }
)


def test_a_normal_study_is_not_recovered_by_being_asked_twice():
    labels = [["a1"], ["a2"], ["normal"], ["normal"], ["b1"], ["b1"]]
    test = Test.of([], records(labels), NORMAL, resamples=0)
    top = one_hot(3, [1, 0, 0, 2, 0, 0])  # wrong, right, wrong (not asked), right (not asked), wrong, wrong
    leaf = one_hot(5, [0, 1, 4, 4, 2, 3])  # right, right, right, right, right, wrong
    assert NORMAL.levels == (("A", "B", "normal"), ("a1", "a2", "b1", "b2", "normal"))
    pairs = measures.recovery([top, leaf], test)
    sums = {name: (above.sum(), below.sum()) for name, (above, below) in pairs.items()}
    assert sums == {"wrong_first": (3, 4), "recovery": (2, 3), "kept": (1, 1)}
    runs = [{"test": [top, leaf]}, {"test": [top, one_hot(5, [1, 1, 4, 4, 2, 2])]}]
    assert list(measures.recovered_classes(runs, test).items()) == [("b1", 3), ("a1", 1)]
    flat = NORMAL.to_depth(1)
    assert measures.recovered_classes([{"test": [leaf]}], Test.of([], records(labels), flat, resamples=0)) == {}


def test_a_share_of_none_or_of_all_has_the_exact_interval():
    """Clopper and Pearson for none of n: the upper end is 1 - (0.05 / 2) ** (1 / n)."""
    low, high = exact_interval("recovery", 0, 30, 3)
    assert (low, high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 10)))
    low, high = exact_interval("kept", 30, 30, 3)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 10)), 1.0)
    assert exact_interval("recovery", 1, 30, 3) is None
    assert exact_interval("recovery", 0, 0, 3) is None
    assert exact_interval("distance", 30, 30, 3) is None  # edges, no share
    labels = [["a1"], ["a2"], ["b1"], ["b2"]]
    test = Test.of(records(labels), records(labels), TREE, resamples=20)
    scores = [one_hot(2, [1, 1, 1, 1]), one_hot(4, [1, 0, 2, 3])]
    found = measure([{"val": scores, "test": scores}] * 2, test).summary()
    assert found["recovery"]["counts"] == (0, 4)
    assert (found["recovery"]["low"], found["recovery"]["high"]) == (0.0, pytest.approx(1 - 0.025**0.5))
    assert found["recovery"]["exact"]
    assert (found["kept"]["low"], found["kept"]["high"]) == (pytest.approx(0.025**0.5), 1.0)
    assert "exact" not in found["wrong_first"]  # two of four


def test_a_difference_to_a_share_of_none_is_made_of_both_intervals():
    rows = {"recovery": np.array([0.5, 0.4, 0.6])}
    one = Measured(rows, {"recovery": [0.5]}, {"recovery": (2, 4)}, {}, TREE, {})
    none = Measured({"recovery": np.zeros(3)}, {"recovery": [0.0]}, {"recovery": (0, 2)}, {}, TREE, {})
    entry, upper = one.difference(none)["recovery"], 1 - 0.025**0.5
    assert entry["value"] == pytest.approx(0.5)
    assert entry["low"] == pytest.approx(0.5 - np.hypot(0.5 - one.summary()["recovery"]["low"], upper))
    assert entry["high"] == pytest.approx(one.summary()["recovery"]["high"])
    assert entry["low"] < 0 < none.difference(none)["recovery"]["high"]


def test_studies_without_a_label_at_a_level_are_not_asked():
    test = Test.of([], records([["A"], ["a1"], []]), TREE, resamples=0)  # A alone: its leaf is unknown; []: nothing found
    pairs = measures.recovery([one_hot(2, [1, 1, 1]), one_hot(4, [0, 0, 0])], test)
    assert pairs["wrong_first"][1].tolist() == [0, 1, 0]
    assert pairs["recovery"][0].tolist() == [0, 1, 0]


def test_inconsistent_paths_counted_by_hand():
    test = Test.of([], records([["a1"], ["b1"], ["A"]]), TREE, resamples=0)
    top = np.array([[1, 0], [1, 1], [1, 0]], dtype=bool)
    leaf = np.array([[1, 0, 1, 1], [0, 0, 1, 0], [0, 0, 1, 0]], dtype=bool)
    pairs = measures.paths([top, leaf], test)
    above, below = pairs["child_without_parent"]
    assert above.tolist() == [2, 0, 0]  # b1 and b2 without B; the last study's leaves cannot be judged
    assert below.tolist() == [3, 1, 0]
    above, below = pairs["parent_without_child"]
    assert above.tolist() == [0, 1, 0]  # A, with neither a1 nor a2
    assert below.tolist() == [1, 2, 0]


def test_levels_are_numbered_as_in_the_paper_also_where_the_tree_was_cut():
    tree = Taxonomy.load("brain_mri")
    assert [level_numbers(tree.to_depth(depth)) for depth in (1, 2, 3)] == [[3], [1, 3], [1, 2, 3]]


@pytest.fixture
def scored() -> tuple[Test, dict[str, list[np.ndarray]]]:
    """120 validation and 120 test studies, two a patient, and scores that know something."""
    generator = np.random.default_rng(0)
    leaves = generator.integers(4, size=240)
    given = records([[TREE.levels[1][leaf]] for leaf in leaves], [f"p{number // 2}" for number in range(240)])
    tops = np.eye(2)[leaves // 2] + generator.normal(0, 0.8, (240, 2))
    bottoms = np.eye(4)[leaves] + generator.normal(0, 0.8, (240, 4))
    scores = {"val": [tops[:120], bottoms[:120]], "test": [tops[120:], bottoms[120:]]}
    return Test.of(given[:120], given[120:], TREE, resamples=200), scores


def test_measures_agree_with_scikit_learn_and_average_over_seeds(scored):
    from sklearn.metrics import roc_auc_score

    test, scores = scored
    worse = {split: [np.random.default_rng(1).normal(size=table.shape) for table in levels] for split, levels in scores.items()}
    both, alone = measure([scores, worse], test), measure([scores], test)
    assert alone.rows["auc_3"][0] == pytest.approx(roc_auc_score(test.rows("test", 1)[0], scores["test"][1]))
    assert both.seeds["auc_3"][0] == pytest.approx(alone.rows["auc_3"][0])
    assert both.rows["auc_3"][0] == pytest.approx(np.mean(both.seeds["auc_3"]))
    assert alone.rows["drop_bacc"][0] == pytest.approx(alone.rows["bacc_1"][0] - alone.rows["bacc_3"][0])
    entry = both.summary()["recovery"]
    assert entry["counts"] == (
        sum(_recovered(s, test)[0] for s in (scores, worse)),
        sum(_recovered(s, test)[1] for s in (scores, worse)),
    )
    assert entry["value"] == pytest.approx(entry["counts"][0] / entry["counts"][1])
    assert entry["low"] <= entry["value"] <= entry["high"]
    assert alone.classes["a1"]["positives"] == test.rows("test", 1)[0][:, 0].sum()


def _recovered(scores, test) -> tuple[int, int]:
    first, last = (test.rows("test", level)[0][np.arange(120), scores["test"][level].argmax(1)] for level in (0, 1))
    return int((~first & last).sum()), int((~first).sum())


def test_thresholds_come_from_validation_alone(scored):
    test, scores = scored
    shifted = {"val": scores["val"], "test": [table + 100.0 for table in scores["test"]]}
    assert measure([shifted], test).rows["bacc_3"][0] == pytest.approx(0.5)  # everything is above the thresholds
    assert measure([scores], test).rows["bacc_3"][0] > 0.65


def test_differences_are_paired_and_only_between_the_same_classes(scored):
    test, scores = scored
    one = measure([scores], test)
    assert one.difference(one)["auc_3"] == {"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    renamed = json.loads(json.dumps(TREE.to_dict()).replace('"A"', '"C"'))
    other = Measured(one.rows, one.seeds, one.counts, one.classes, Taxonomy.from_dict(renamed), {})
    shared = set(other.difference(one))
    assert {"auc_3", "bacc_3", "recovery"} <= shared
    assert not shared & {"auc_1", "bacc_1", "drop_auc", "drop_bacc"}


# --- the verdict -----------------------------------------------------------------------------------------------------


def made(bacc: float, spread: float = 0.01) -> Measured:
    """A variant whose balanced accuracy is known, with independent resamples of that spread."""
    generator = np.random.default_rng(int(1e6 * bacc))
    rows = {name: np.append(bacc, bacc + generator.normal(0, spread, 500)) for name in ("bacc_3", "auc_3")}
    return Measured(rows, {name: [bacc] for name in rows}, {}, {}, TREE, {})


def test_the_published_order_is_compared_pair_by_pair():
    variants = [
        Variant(name, name.upper(), published={"bacc_3": value}) for name, value in (("a", 90.0), ("b", 80.0), ("c", 70.0))
    ]
    found = order(variants, {"a": made(0.70), "b": made(0.80), "c": made(0.795)}, "bacc_3")
    assert found is not None
    assert found["published"] == ["A", "B", "C"]
    assert found["ours"] == ["B", "C", "A"]
    assert [(p["better"], p["worse"], p["agrees"], p["shown"]) for p in found["pairs"]] == [
        ("A", "B", False, True),
        ("A", "C", False, True),
        ("B", "C", True, False),
    ]
    text = " ".join(answers({"order": {"bacc_3": found}, "missing": [], "variants": [], "reference": "a"}))
    assert text.startswith(
        "Balanced accuracy at level 3: of 3 published pairs, 0 shown in the published direction, 2 shown against it, 1 undecided. "
        "Point estimates, shown or not: B > C > A; published: A > B > C."
    )
    assert "Shown against the paper: B before A by 10.0 points; C before A by 9.5 points." in text
    same = order(variants, {"a": made(0.9), "b": made(0.8), "c": made(0.7)}, "bacc_3")
    assert answers({"order": {"x": None, "bacc_3": same}, "missing": [], "variants": [], "reference": "a"}) == [
        "Balanced accuracy at level 3: of 3 published pairs, 3 shown in the published direction, 0 shown against it, 0 undecided. "
        "Point estimates, shown or not, are in the published order: A > B > C."
    ]
    unsure = order(variants[:2], {"a": made(0.801), "b": made(0.8)}, "bacc_3")
    assert answers({"order": {"bacc_3": unsure}, "missing": [], "variants": [], "reference": "a"})[0].startswith(
        "Balanced accuracy at level 3: of 1 published pair, 0 shown in the published direction, 0 shown against it, 1 undecided."
    )


def test_the_least_drop_comes_first():
    variants = [Variant("a", "A", published={"drop_bacc": 2.0}), Variant("b", "B", published={"drop_bacc": 14.0})]
    low, high = made(0.8), made(0.7)
    low.rows["drop_bacc"], high.rows["drop_bacc"] = np.full(9, 0.02), np.full(9, 0.09)
    found = order(variants, {"a": low, "b": high}, "drop_bacc")
    assert found is not None
    assert found["ours"] == found["published"] == ["A", "B"]
    assert found["pairs"][0]["agrees"]


def test_hints_name_runs_that_were_still_rising_and_seeds_that_decide():
    def row(label: str, seeds: list[float], steps: list[int]) -> dict:
        entry = {"bacc_3": {"value": float(np.mean(seeds)), "seeds": seeds}}
        return {"label": label, "measures": entry, "training": {"steps": 100, "best_steps": steps}}

    found = hints({"variants": [row("A", [0.7, 0.8], [100, 100]), row("B", [0.76, 0.77], [50, 100])]})
    assert any(text.startswith("A was best at the last step") for text in found)
    assert any("not settled" in text for text in found)
    assert hints({"variants": [row("A", [0.7, 0.71], [50, 100]), row("B", [0.8, 0.81], [50, 100])]}) == []


def test_percent():
    assert [percent(0.12345), percent(-0.0001, True), percent(-0.05, True), percent(None)] == [
        "12.3",
        "0.0",
        "\u22125.0",
        "\u2013",
    ]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tiny checkpoint."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    text = TextConfig(width=16, depth=1, heads=2, vocabulary=80, context_length=24)
    vision = VisionConfig(size=(8, 16, 16), patch=(2, 8, 8), width=24, heads=2, scopes=["slice", "scan", "study"])
    model = HLIP(HLIPConfig(16, vision, text), text_source=grow_text_source(folder / "text", ["There is glioma seen."], text))
    model.volume_spec = Store(tiny_store).spec
    model.save(folder / "model")
    return folder


def command(*words: object) -> None:
    parser = argparse.ArgumentParser()
    add_experiments(parser.add_subparsers())
    arguments = parser.parse_args(["experiments", *map(str, words)])
    arguments.run(arguments)


def test_the_command_trains_each_run_once_and_writes_its_page(tiny_store, encoder, tmp_path, monkeypatch, capsys):
    rows = " - {name: hp2l, label: HP2L, published: {bacc_3: 88.43}}\n - {name: d, label: Flat, depth: 1, published: {bacc_3: 74.23}}\n"
    one = write_experiment(tmp_path / "one.yaml", rows)
    two = write_experiment(tmp_path / "two.yaml", " - {name: hp2l, label: Again}\n")
    out = tmp_path / "out"
    words = [encoder, tiny_store, out, "--config", TINY, "--seeds", 2, "--threads", 1, "--resamples", 50, "--only", one, two]
    command(*words)
    said = capsys.readouterr().out
    assert "2 of them distinct" in said
    assert "run 4 of 4" in said
    folders = sorted((out / "runs").glob("*/seed_*"))
    assert len(folders) == 4
    assert all((folder / "result.json").is_file() and not (folder / "checkpoints").exists() for folder in folders)
    assert sorted(path.name.split("-")[0] for path in (out / "tokens").iterdir()) == ["test", "train", "val"]
    page = (out / "index.html").read_text()
    assert "SIMULATED" in page
    assert "88.43" in page
    assert "http" not in page.replace("http://www.w3.org", "")

    monkeypatch.setattr(runs, "finetune", lambda argv: pytest.fail("trained again"))
    monkeypatch.setattr(measures, "MINIMUM", 1)  # two studies a class
    command(*words)
    results = json.loads((out / "results.json").read_text())
    hp2l, flat = results["experiments"][0]["variants"]
    assert len(hp2l["measures"]["bacc_3"]["seeds"]) == 2
    assert 0 <= hp2l["measures"]["bacc_3"]["low"] <= hp2l["measures"]["bacc_3"]["high"] <= 1
    assert "recovery" in hp2l["measures"]
    assert "recovery" not in flat["measures"]
    assert set(flat["difference"]) == {"auc_3", "bacc_3", "distance"}
    assert results["experiments"][0]["order"]["bacc_3"]["published"] == ["HP2L", "Flat"]
    assert "| HP2L |" in (out / "results.md").read_text()


def test_another_call_adds_to_the_page_and_says_its_overrides(tiny_store, encoder, tmp_path, capsys):
    out = tmp_path / "out"
    words = [encoder, tiny_store, out, "--config", TINY, "--seeds", 1, "--threads", 1, "--resamples", 10, "--steps", 2]
    words += ["--taxonomy", "brain_mri", "--override", "head.momentum=0.5", "head.dropout=0.1", "--only"]
    command(*words, "prompt_update", "taxonomy")
    assert "Left out of 'Another tree'" in capsys.readouterr().out
    one = write_experiment(tmp_path / "one.yaml", " - {name: sum, label: Sum, overrides: {head.prompt_update: sum}}\n", "sum")
    command(*words, one)
    assert "1 of 1 runs are there already" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert [experiment["name"] for experiment in results["experiments"]] == ["prompt_update", "one"]
    assert results["overrides"] == {"head.momentum": "0.5", "head.dropout": "0.1"}
    assert "recovered" in results["experiments"][0]["variants"][0]
    for name in ("index.html", "results.md"):
        assert (
            "head.momentum=0.5, head.dropout=0.1 for all variants, tree brain_mri (4 / 6 / 16 classes)"
            in (out / name).read_text()
        )


def test_scores_are_those_of_the_saved_model(tiny_store, encoder, tmp_path):
    one = write_experiment(tmp_path / "one.yaml", " - {name: hp2l, label: HP2L}\n")
    command(
        encoder, tiny_store, tmp_path / "out", "--config", TINY, "--seeds", 1, "--threads", 1, "--resamples", 10, "--only", one
    )
    (folder,) = (tmp_path / "out" / "runs").glob("*/seed_0")
    store, model = Store(tiny_store), load(folder)
    study = store.split("test")[3]
    expected = model.diagnose(store.volumes(study.study_id), [len(study.sequences)])[2][0]
    with np.load(folder / "scores.npz") as arrays:
        torch.testing.assert_close(torch.from_numpy(arrays["test_3"][3]).float(), expected, atol=1e-5, rtol=1e-4)


def test_an_encoder_that_is_trained_with_each_head(tiny_store, tmp_path):
    """Nothing is cached: scores come from each run's own encoder, and the page says how it was."""
    config = tmp_path / "cnn.yaml"
    config.write_text(TINY.read_text() + "encoder: cnn\ncnn: {channels: [T1], width: 64}\ntuning: {encoder: all}\nworkers: 0\n")
    one = write_experiment(
        tmp_path / "one.yaml", " - {name: hp2l, label: HP2L}\n - {name: linear, label: L, overrides: {head.kind: linear}}\n"
    )
    words = ["--seeds", 1, "--threads", 1, "--resamples", 10, "--steps", 3, "--only", one]
    command("cnn", tiny_store, tmp_path / "out", "--config", config, *words)
    assert not (tmp_path / "out" / "tokens").exists()
    store = Store(tiny_store)
    study = store.split("test")[3]
    for folder in (tmp_path / "out" / "runs").glob("*/seed_0"):
        model = load(folder)
        expected = model.diagnose(model.encoder.reader(store, study), [1])[2][0]
        with np.load(folder / "scores.npz") as arrays:
            torch.testing.assert_close(torch.from_numpy(arrays["test_3"][3]).float(), expected, atol=1e-5, rtol=1e-4)
    assert "encoder cnn, trained with each head (all)" in (tmp_path / "out" / "index.html").read_text()


def test_a_failing_variant_is_named_and_the_others_go_on(tiny_store, encoder, tmp_path):
    one = write_experiment(
        tmp_path / "one.yaml",
        " - {name: hp2l, label: HP2L}\n - {name: bad, label: Bad, overrides: {head.level_start: encoder}}\n",
    )
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="1 of 2 variants failed"):
        command(encoder, tiny_store, out, "--config", TINY, "--seeds", 1, "--threads", 1, "--resamples", 10, "--only", one)
    results = json.loads((out / "results.json").read_text())
    assert list(results["failed"]) == ["Bad"]
    assert [row["label"] for row in results["experiments"][0]["variants"]] == ["HP2L"]
    assert "Failed" in (out / "index.html").read_text()


def test_a_stopped_run_stops_the_command_and_goes_on_later(tiny_store, encoder, tmp_path, monkeypatch):
    one = write_experiment(tmp_path / "one.yaml", " - {name: hp2l, label: HP2L}\n")
    words = [
        encoder,
        tiny_store,
        tmp_path / "out",
        "--config",
        TINY,
        "--seeds",
        1,
        "--threads",
        1,
        "--resamples",
        10,
        "--only",
        one,
    ]
    with monkeypatch.context() as patch:
        patch.setattr("finetune.train.StopSignal.asked", lambda self, accelerator: "told to")
        with pytest.raises(KeyboardInterrupt):
            command(*words)
    (folder,) = (tmp_path / "out" / "runs").glob("*/seed_0")
    assert not (folder / "result.json").exists()
    command(*words)
    assert json.loads((folder / "result.json").read_text())["steps"] == 6
    assert "stopped after step 1" in (folder / "log.txt").read_text()

"""One run a configuration, whatever experiments it stands in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune.experiments import plan, runs
from finetune.experiments.plan import (
    Experiment,
    ExperimentError,
    Variant,
    as_published,
    experiments,
    jobs,
    make_job,
    parse_overrides,
    suited,
)
from finetune.settings import FinetuneConfig
from hlip.taxonomy import Taxonomy

from .small import setting, write_experiment

pytestmark = pytest.mark.usefixtures("fresh_engine")


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


def test_an_option_that_is_new_leaves_runs_of_before_what_they_were(tmp_path, monkeypatch):
    job = make_job(Variant("m", "M", {"head.momentum": 0.9}), setting(tmp_path))
    whole = plan.plain

    def with_new_option(part):
        found = whole(part)
        return found | {"head": found["head"] | {"brand_new": 1}} if isinstance(part, FinetuneConfig) else found

    monkeypatch.setattr(plan, "plain", with_new_option)
    assert make_job(Variant("m", "M", {"head.momentum": 0.9}), setting(tmp_path)).key == job.key
    monkeypatch.setattr(plan, "REVISION", plan.REVISION + 1)
    assert make_job(Variant("m", "M", {"head.momentum": 0.9}), setting(tmp_path)).key != job.key


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
    others[2].write_tree(setting(tmp_path))
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
    kept, sentences = suited(experiments(["taxonomy", "depth"]), setting(tmp_path, taxonomy="brain_mri_2level"))
    assert [e.name for e in kept] == ["depth"]
    assert [variant.label for variant in kept[0].variants] == ["2 levels (HP2L)", "1 level"]
    assert len(sentences) == 2
    assert "Tree B, clinical (5 / 6 / 16); it has a tree of its own (brain_mri_clinical)" in sentences[0]
    assert "2 levels; the tree has 2 levels uncut, and that stands there already" in sentences[1]
    kept, sentences = suited(experiments(["depth"]), setting(tmp_path, taxonomy="brain_mri_flat"))
    assert kept == []
    assert "2 levels; it cuts the tree to 2 levels, and there is 1" in sentences[0]
    own = tmp_path / "own.yaml"
    own.write_text("taxonomy: brain_mri_2level\nsteps: 3\n")
    kept, sentences = suited(experiments(["taxonomy"]), setting(tmp_path, base=str(own)))
    assert (kept, len(sentences)) == ([], 1)


def test_variants_that_an_encoder_cannot_have_are_left_out(tmp_path):
    found = experiments(["prototype_start", "prompt_attention", "level_start"])
    names = lambda kept: [(e.name, [variant.name for variant in e.variants]) for e in kept]  # noqa: E731
    given = replace(setting(tmp_path, base="cnn_demo"), encoder=Path("cnn"))
    kept, sentences = suited(found, given)
    assert names(kept) == [("prompt_attention", ["hp2l", "unit"])]
    assert [text.split("; ")[1] for text in sentences] == [
        *["it needs the text tower of a pretrained HLIP, and the encoder is cnn."] * 3,
        "it needs the blocks of a pretrained transformer, and the encoder is cnn.",
    ]
    with pytest.raises(ExperimentError, match=r"--config cnn_demo, or --override tuning\.encoder=all"):
        suited(found, replace(given, base="demo"))
    kept, _ = suited(found, replace(given, base="demo", overrides={"tuning.encoder": "all"}))
    assert names(kept) == [("prompt_attention", ["hp2l", "unit"])]


def test_labels_of_levels_that_were_cut_away_are_read_in_the_whole_tree(tmp_path):
    bare, labels = setting(tmp_path), frozenset({"tumor", "glioma"})
    whole, two = Variant("hp2l", "H"), Variant("d", "D", depth=2)
    job, plain = (make_job(two, replace(bare, labels=own)) for own in (labels, frozenset({"glioma", "occupying"})))
    assert job.arguments[-2:] == ("--cohort.labelled_in", "brain_mri")
    assert job.config.cohort.labelled_in == "brain_mri"
    assert plain.key == make_job(two, bare).key != job.key  # a run without such labels is what it was
    assert job.config.tokens == plain.config.tokens
    assert make_job(whole, replace(bare, labels=labels)).key == make_job(whole, bare).key


def test_published_numbers_stand_beside_the_published_tree_alone(tmp_path):
    found = experiments(["depth", "momentum"])
    mine = Experiment.load(write_experiment(tmp_path / "m.yaml", " - {name: hp2l, label: H, published: {bacc_1: 80.0}}\n"))
    assert as_published(found, Taxonomy.load("brain_mri")) == (found, "")
    shown, why = as_published([*found, mine], Taxonomy.load("brain_mri_clinical"))
    assert (
        why == "No published numbers stand beside these: they are of a tree of 4 / 6 / 16 classes, and this one has 5 / 6 / 16."
    )
    assert not any(variant.published for one in shown[:2] for variant in one.variants)
    assert (shown[0].source, shown[2]) == ("", mine)


def test_the_plan_is_in_columns_and_its_lines_end(tmp_path):
    given = setting(tmp_path)
    variants = (Variant("a", "Short"), Variant("b", "A longer label", {"head.kind": "linear"}))
    distinct, _ = jobs([Experiment("e", "E", "Q?", variants, "a")], given)
    first, second = distinct
    places = {(f"experiment_{number}", "a"): first for number in range(12)} | {("other", "b"): second}
    lines = runs.plan_lines(distinct, places, given, 3)
    assert lines[0].index("0 of 3 seeds there") == lines[1].index("0 of 3 seeds there")
    assert lines[0].index("experiment_0") == lines[1].index("other")
    assert len(lines[0]) <= 140
    shown, more = lines[0].split(", ... (")
    assert shown.count("experiment_") + int(more.removesuffix(" more)")) == 12
    assert runs.shorten_list("a, b", 140) == "a, b"


def test_studies_without_labels_are_not_counted():
    given = {"train": [(), None, ("glioma",)], "val": [None], "test": [("glioma",)]}
    store = SimpleNamespace(split=lambda name: [SimpleNamespace(labels=labels) for labels in given[name]])
    assert runs.labelled_studies(store) == {"train": 2, "val": 0, "test": 1}


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


def test_variants_that_read_other_tokens_keep_them_apart(tmp_path):
    def folder(base=None, **overrides):
        given = setting(tmp_path, overrides=base or {})
        job = make_job(Variant("v", "V", {key.replace("__", "."): value for key, value in overrides.items()}), given)
        assert job.arguments[-2:] == ("--tokens", str(job.config.tokens))
        return job.config.tokens.relative_to(tmp_path / "out").as_posix()

    assert folder() == folder(head__kind="linear") == folder(cohort__balance=0.5) == "tokens"
    assert folder({"head.blocks": "[1,2,2]"}) == "tokens"  # for all variants alike
    others = [folder(head__blocks="[1,2,2]"), folder(cohort__fraction=0.5), folder(precision="bf16")]
    assert len({"tokens", *others}) == 4
    assert folder(cohort__folds=3) != folder(cohort__folds=3, taxonomy="brain_mri_flat")

"""The fine-tuning loop: it learns on cached tokens, it resumes as if never stopped, and its folder rebuilds the model."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from finetune.cohort import Labels
from finetune.settings import FinetuneConfig
from finetune.train import Run, counted, main
from hlip.config import parse_config
from hlip.model import CheckpointError
from hlip.model import load as load_pretrained
from hlip.store import Store
from hlip.taxonomy import Taxonomy
from hp2l.diagnoser import Diagnoser, load
from hp2l.scaling import Scaling

from .made import CNN, arguments, changed_store, metrics

pytestmark = pytest.mark.usefixtures("fresh_engine", "unsaved_figures")


def test_the_head_learns_and_leaves_its_best_checkpoint(tiny_store, pretrained, tmp_path, capsys):
    out = tmp_path / "run"
    main(arguments(tiny_store, pretrained, out, "--steps", "120", "--validate_every", "20"))
    rows = metrics(out)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 120
    assert sum(losses[-5:]) < 0.45 * sum(losses[:5])  # base rates alone give 0.6, smoothed targets at best 0.29
    areas = [row["val_auc_level_3"] for row in rows if "val_auc_level_3" in row]
    assert len(areas) == 6
    assert max(areas) > 0.95
    facts = load(out).facts
    means = {
        row["step"]: sum(row[f"val_auc_level_{level}"] for level in (1, 2, 3)) / 3 for row in rows if "val_auc_level_1" in row
    }
    assert facts["val_auc"] == pytest.approx(max(means.values()))
    assert facts["step"] == min(step for step, mean in means.items() if mean == max(means.values()))
    assert (facts["kind"], facts["studies"], facts["simulated"]) == ("finetune", 24, True)
    assert (out / "config.yaml").exists()
    with (out / "validation.csv").open() as file:
        classes = list(csv.DictReader(file))
    assert {int(row["positives"]) + int(row["negatives"]) for row in classes} == {8}
    for level, names in enumerate(Taxonomy.load("brain_mri").levels, start=1):
        own = [row for row in classes if row["level"] == str(level)]
        assert [row["class"] for row in own] == list(names)
        areas = [float(row["auc"]) for row in own if row["auc"] and row["class"] != "normal"]
        assert sum(areas) / len(areas) == pytest.approx(facts[f"val_auc_level_{level}"], abs=1e-6)  # of the kept step
    assert f"of each class: {out / 'validation.csv'}" in capsys.readouterr().out


def test_the_encoder_stays_as_it_was(tiny_store, pretrained, tmp_path):
    main(arguments(tiny_store, pretrained, tmp_path / "run"))
    kept = load(tmp_path / "run").encoder.model.state_dict()
    for key, value in load_pretrained(pretrained).state_dict().items():
        assert torch.equal(value, kept[key]), key


def test_the_papers_cnn_learns_from_named_scans(tiny_store, pretrained, tmp_path, capsys):
    """It begins at random and is trained with the head; what a study lacks is zeros; the folder rebuilds it."""
    out = tmp_path / "run"
    more = ("--steps", "40", "--validate_every", "20", "--tuning.lr_scale", "1.0")
    main(arguments(tiny_store, pretrained, out, *CNN, *more))
    printed = capsys.readouterr().out
    assert "the encoder reads, of 32 studies: T1 32, FLAIR 0; what a study lacks is zeros" in printed
    assert "encoder cnn (all)" in printed
    losses = [row["loss"] for row in metrics(out) if "loss" in row]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    model, store = load(out), Store(tiny_store)
    assert model.encoder.channels == ("T1", "FLAIR")
    assert model.encoder.volume_spec == store.spec
    assert model.facts["tuned"] == "all"
    record = store.split("val")[0]
    levels = model.diagnose(model.encoder.reader(store, record), [2])
    assert [level.shape[1] for level in levels] == list(model.taxonomy.counts)
    check_scaling(model, store)


def check_scaling(model: Diagnoser, store: Store) -> None:
    """What the checkpoint keeps fits the scores that it gives the validation studies itself."""
    records = store.split("val")
    rows = [model.diagnose(volumes, [len(volumes)]) for volumes in (model.encoder.reader(store, record) for record in records)]
    labels = Labels(records, model.taxonomy)
    scores = [torch.cat(level) for level in zip(*rows, strict=True)]
    again = Scaling.of(scores, labels.targets, labels.known)
    assert (model.scaling.studies, again.studies) == (8, 8)
    for kept, expected in zip(model.scaling.apply(scores), again.apply(scores), strict=True):
        torch.testing.assert_close(kept, expected, atol=1e-3, rtol=0)


def test_studies_without_a_channel_are_left_out_by_name(tiny_store, pretrained, tmp_path, capsys):
    def lacks(record):
        return replace(record, sequences=("SWI",) * len(record.sequences)) if record.study_id in ("s0", "s12") else record

    store = changed_store(tiny_store, tmp_path / "store", lacks)
    main(arguments(store, pretrained, tmp_path / "run", *CNN, "--steps", "1"))
    assert re.search(r"left out, none of these scans: 2 studies \(s0, s12\)", capsys.readouterr().out)
    with pytest.raises(
        SystemExit, match=r"no train, val study has any of the channels DWI; the store's scans are called: SWI, T1"
    ):
        main(arguments(store, pretrained, tmp_path / "other", *CNN, "--cnn.channels", "[DWI]"))
    with pytest.raises(SystemExit, match=r"cnn starts at random: it must be trained"):
        main(arguments(store, pretrained, tmp_path / "other", "--encoder", "cnn"))
    with pytest.raises(SystemExit, match="a frozen encoder reads them once"):
        main(arguments(store, pretrained, tmp_path / "other", "--augmentation.rotate", "5"))


def test_a_class_that_a_study_has_is_learnt_from_beside_a_coarse_label(tiny_store, pretrained, tmp_path):
    """Of the first training study level 3 is known of its glioma, and that it is not normal; of a validation study like it, nothing there."""

    def both(record):
        return replace(record, labels=("glioma", "vascular")) if record.study_id in ("s0", "s12") else record

    store = changed_store(tiny_store, tmp_path / "store", both)
    given = arguments(store, pretrained, tmp_path / "run", "--loss.long_tail", "logit_adjusted")
    run = Run(parse_config(FinetuneConfig, command="finetune", description="", argv=given))
    place = {split: [r.study_id for r in run.records[split]].index(name) for split, name in (("train", "s0"), ("val", "s12"))}
    glioma = run.taxonomy.levels[2].index("glioma")
    known = run.learnt.known[2][place["train"]].nonzero().flatten().tolist()
    assert known == [glioma, run.taxonomy.levels[2].index("normal")]
    assert run.learnt.targets[2][place["train"]].nonzero().flatten().tolist() == [glioma]
    assert not run.labels["val"].known[2][place["val"]].any()
    # counted is what is known of the whole level: a class known only where it is present would be too frequent
    positives = run.labels["train"].targets[2][:, glioma].sum()
    share = (positives - 1) / (len(run.records["train"]) - 1)
    assert run.loss.shift_3[glioma].item() == pytest.approx(torch.logit(share).item(), abs=1e-5)
    assert run.learnt.targets[2][:, glioma].sum() == positives


def test_few_labels_make_a_smaller_batch(tiny_store, pretrained, tmp_path, capsys):
    main(arguments(tiny_store, pretrained, tmp_path / "run", "--cohort.fraction", "0.2", "--steps", "2"))
    assert "batch_size 8 is more than the training studies: 5 a step" in capsys.readouterr().out


def test_a_loss_that_is_no_number_stops_the_run_with_its_studies(tiny_store, pretrained, tmp_path):
    wild = ("--optimizer.lr", "1e30", "--optimizer.warmup_steps", "0", "--optimizer.clip_norm", "1e30", "--log_every", "5")
    with pytest.raises(SystemExit, match=r"the loss is (nan|inf); no checkpoint was written yet\. Lower --optimizer\.lr"):
        main(arguments(tiny_store, pretrained, tmp_path / "run", *wild))
    content = json.loads((tmp_path / "run" / "bad_step.json").read_text())
    assert len(content["studies"]) == 8
    assert set(content["studies"]) <= set(Store(tiny_store).study_ids)


def test_levels_can_begin_as_the_encoders_last_blocks(tiny_store, pretrained, tmp_path):
    own = (
        "--head.width",
        "24",
        "--head.mlp_ratio",
        "4",
        "--head.level_start",
        "encoder",
        "--optimizer.lr",
        "0",
        "--steps",
        "1",
    )
    main(arguments(tiny_store, pretrained, tmp_path / "run", *own))
    model = load(tmp_path / "run")
    for level in model.head.levels:
        for block, given in zip((level.prompting, level.vanilla), model.encoder.blocks()[-2:], strict=True):
            for name, value in given.state_dict().items():
                assert torch.equal(block.state_dict()[name], value), name
    for other in ((), ("--head.width", "24", "--head.mlp_ratio", "4", "--head.heads", "3")):  # heads share no shape of a weight
        with pytest.raises(SystemExit, match=r"give --head.width 24 --head.heads 2 --head.mlp_ratio 4\n"):
            main(arguments(tiny_store, pretrained, tmp_path / "other", "--head.level_start", "encoder", *other))


def test_cached_tokens_are_reused_and_change_with_the_blocks(tiny_store, pretrained, tmp_path, monkeypatch):
    import finetune.tokens as tokens

    encode, encoded = tokens.encode, []

    def counted(model, store, records, *more):
        encoded.append(len(records))
        return encode(model, store, records, *more)

    monkeypatch.setattr(tokens, "encode", counted)
    out = tmp_path / "run"
    main(arguments(tiny_store, pretrained, out, "--steps", "3"))
    assert encoded == [24, 8]
    names = sorted(path.name for path in (out / "tokens").iterdir())
    assert [name.split("-")[0] for name in names] == ["train", "val"]
    main(arguments(tiny_store, pretrained, out))
    assert encoded == [24, 8]  # read, not encoded again
    shared = ("--tokens", str(out / "tokens"))
    main(arguments(tiny_store, pretrained, tmp_path / "other", *shared, "--head.dropout", "0.5"))
    assert encoded == [24, 8]  # the head's business alone
    main(arguments(tiny_store, pretrained, tmp_path / "blocks", *shared, "--head.blocks", "[1,2,2]"))
    assert encoded == [24, 8] * 2
    again = {path.name for path in (out / "tokens").iterdir()}
    assert len(again) == 4
    assert set(names) < again  # the first run may go on reading its own


def test_unlabelled_studies_are_left_out_and_counted(tiny_store, pretrained, tmp_path, capsys):
    without = {record.study_id for record in Store(tiny_store).split("train")[:5]}
    store = changed_store(
        tiny_store, tmp_path / "store", lambda record: replace(record, labels=None) if record.study_id in without else record
    )
    main(arguments(store, pretrained, tmp_path / "run", "--steps", "1"))
    printed = capsys.readouterr().out
    assert "left out, no labels: 5 of 24 train studies" in printed
    assert "val studies" not in printed
    assert "19 training and 8 validation studies" in printed


def test_an_unknown_label_names_the_study(tiny_store, pretrained, tmp_path):
    store = changed_store(
        tiny_store,
        tmp_path / "store",
        lambda record: replace(record, labels=("glyoma",)) if record.study_id == "s4" else record,
    )
    with pytest.raises(SystemExit, match=r"1 study has labels that do not fit the tree\n  .*'glyoma'.*'glioma'.*, in 1: s4"):
        main(arguments(store, pretrained, tmp_path / "run"))


def test_a_moved_folder_rebuilds_the_model(tiny_store, pretrained, tmp_path):
    main(arguments(tiny_store, pretrained, tmp_path / "run"))
    volumes = torch.cat([Store(tiny_store).volumes(name) for name in ("s0", "s1")])
    before = load(tmp_path / "run").diagnose(volumes, [1, 2])
    (tmp_path / "run" / "model").rename(tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "run")
    model = load(tmp_path / "elsewhere", taxonomy=Taxonomy.load("brain_mri"))
    assert not model.training
    after = model.diagnose(volumes, [1, 2])
    assert [tuple(level.shape) for level in after] == [(2, count) for count in model.taxonomy.counts]
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)
        assert ((one > 0) & (one < 1)).all()
    with pytest.raises(CheckpointError, match=r"trained on taxonomy 'brain_mri' .*, not on 'leukemia'"):
        load(tmp_path / "elsewhere", taxonomy=Taxonomy.load("leukemia"))
    with pytest.raises(CheckpointError, match="'hlip-1' is not 'hp2l-1'"):
        load(pretrained)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--batch_size", "0"), "batch_size must be at least 1, not 0"),
        (("--store", "absent"), "no prepared store here"),
        (("--encoder", "absent"), "no checkpoint here"),
        (("--head.blocks", "[2,4,4]"), r"token blocks \(2, 4, 4\) do not fit the encoder's grid \(4, 2, 2\)"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(tiny_store, pretrained, tmp_path, more, words):
    with pytest.raises(SystemExit, match=words):
        main(arguments(tiny_store, pretrained, tmp_path / "run", *more))


def test_a_split_without_labels_is_named(tiny_store, pretrained, tmp_path):
    store = changed_store(
        tiny_store, tmp_path / "store", lambda record: replace(record, labels=None) if record.split == "val" else record
    )
    with pytest.raises(SystemExit, match="no labelled study in split 'val'"):
        main(arguments(store, pretrained, tmp_path / "run"))


def test_early_stopping(tiny_store, pretrained, tmp_path, capsys):
    """With no step in any direction no validation is better than the first."""
    more = ("--steps", "60", "--patience", "3", "--optimizer.lr", "0", "--optimizer.weight_decay", "0", "--validate_every", "2")
    main(arguments(tiny_store, pretrained, tmp_path / "run", *more, "--head.momentum", "0.999"))
    printed = capsys.readouterr().out
    assert "no better validation in 3, the run ends early" in printed
    assert metrics(tmp_path / "run")[-1]["step"] < 60
    main(arguments(tiny_store, pretrained, tmp_path / "run", *more, "--head.momentum", "0.999"))
    assert "is finished" in capsys.readouterr().out


def strict(text: str) -> object:
    """JSON as its standard has it, without NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_without_an_auc_the_last_model_is_kept_and_nothing_is_claimed(tiny_store, pretrained, tmp_path, capsys, stopped_at):
    """Every study a glioma. Stopped between two validations and gone on, the run does the same."""
    store = changed_store(tiny_store, tmp_path / "store", lambda record: replace(record, labels=("glioma",)))
    more = ("--steps", "9", "--patience", "1")
    main(arguments(store, pretrained, tmp_path / "whole", *more))
    printed = capsys.readouterr().out
    said = "no disease class of the validation split has both positives and negatives; the model of the last validation is kept"
    assert printed.count(said) == 1
    assert "patience 1 does not count such validations" in printed
    assert "best validation AUC not defined" in printed
    assert "ends early" not in printed
    stopped_at(Run, "step", 8, lambda: main(arguments(store, pretrained, tmp_path / "cut", *more)))
    assert load(tmp_path / "cut").facts["step"] == 6
    main(arguments(store, pretrained, tmp_path / "cut", *more))
    for run in (tmp_path / "whole", tmp_path / "cut"):
        rows = [strict(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        watched = [row for row in rows if "val_auc" in row]
        assert [row["step"] for row in watched] == [3, 6, 9]
        assert {row[name] for row in watched for name in row if name.startswith("val_")} == {None}
        facts = strict((run / "model" / "config.json").read_text())["facts"]
        assert (facts["step"], facts["val_auc"], facts["val_auc_level_3"]) == (9, None, None)
        card = (run / "model" / "README.md").read_text()
        assert "No AUC on validation" in card
        assert "roc_auc" not in card
    weights = [load_file(tmp_path / run / "model" / "head.safetensors") for run in ("whole", "cut")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_settings_that_decide_nothing_are_named_with_the_reason(tiny_store, pretrained, tmp_path, capsys):
    """Two classes of the first level alone, alike often; a head without consistency; a frozen encoder."""
    store = changed_store(
        tiny_store,
        tmp_path / "store",
        lambda record: replace(record, labels=("vascular" if record.labels[0] in ("glioma", "normal") else "occupying",)),
    )
    idle = ("--loss.consistency", "7", "--optimizer.layer_decay", "0.5", "--cohort.balance", "1", "--tuning.rank", "4")
    main(arguments(store, pretrained, tmp_path / "isolated", "--config", "isolated", *idle, "--steps", "1"))
    said = "head isolated leaves out of the loss: consistency, so that loss.consistency 7 has no effect\n"
    assert said in (printed := capsys.readouterr().out)
    alike = "cohort.balance 1.0 (all classes are alike often)"
    rate = "optimizer.layer_decay 0.5 (the encoder is frozen, and the head has one rate)"
    assert f"no effect here: {rate}; tuning.rank 4 (of tuning.encoder lora); {alike}\n" in printed
    main(arguments(store, pretrained, tmp_path / "linear", "--config", "linear", "--head.momentum", "0.9", "--steps", "1"))
    assert "head.momentum 0.9 (not read by head linear)" in capsys.readouterr().out
    main(arguments(store, pretrained, tmp_path / "hp2l", *idle, "--steps", "1"))
    assert f"no effect here: {rate}; tuning.rank 4 (of tuning.encoder lora); {alike}\n" in capsys.readouterr().out


def test_settings_that_decide_something_are_not_named(tiny_store, pretrained, tmp_path, capsys):
    """The same ones, where they are read: the encoder's blocks have rates of their own, one class in four is drawn more often."""

    def rarer(record):
        return replace(record, labels=("normal",) if record.labels[0] == "acute infarction" else record.labels)

    store = changed_store(tiny_store, tmp_path / "store", rarer)
    read = ("--optimizer.layer_decay", "0.5", "--cohort.balance", "1", "--cohort.seed", "1", "--cohort.fraction", "0.9")
    read += ("--tuning.encoder", "all", "--workers", "0")
    main(arguments(store, pretrained, tmp_path / "run", "--config", "prompt_vit", *read, "--steps", "1"))
    printed = capsys.readouterr().out
    assert "no effect here" not in printed
    assert (
        "head prompt_vit leaves out of the loss: consistency, so that loss.consistency 0.5 has no effect; level 1 and 2, whose"
        in printed
    )
    main(arguments(store, pretrained, tmp_path / "plain", "--steps", "1"))
    printed = capsys.readouterr().out
    assert "no effect here" not in printed
    assert "leaves out" not in printed


@pytest.mark.parametrize("kind", ["hp2l", "prompt_vit", "cascade"])
def test_the_encoders_layers_alone_have_rates_of_their_own_whatever_the_head(kind, tiny_store, pretrained, tmp_path):
    """Three blocks: 0.1 x 0.5 ** (1, 2, 3), embeddings 0.5 ** 4, the final norm 1; every head at 1."""
    more = ("--tuning.encoder", "all", "--workers", "0", "--optimizer.layer_decay", "0.5", "--head.kind", kind)
    given = arguments(tiny_store, pretrained, tmp_path / "run", *more)
    run = Run(parse_config(FinetuneConfig, command="finetune", description="", argv=given))
    rates = {id(parameter): group["lr_scale"] for group in run.optimizer.param_groups for parameter in group["params"]}
    visual = run.model.encoder.visual
    assert [rates[id(block.attn.qkv.weight)] for block in visual.blocks] == pytest.approx([0.0125, 0.025, 0.05])
    assert rates[id(visual.norm.weight)] == pytest.approx(0.1)
    assert {rates[id(parameter)] for parameter in run.model.head.parameters() if parameter.requires_grad} == {1.0}


def test_a_level_without_weight_has_no_part_in_the_choice(tiny_store, pretrained, tmp_path, capsys):
    main(arguments(tiny_store, pretrained, tmp_path / "run", "--loss.level_weights", "[0, 1, 1]", "--steps", "1"))
    assert "level 1 is not trained and has no part in the mean AUC that chooses the checkpoint" in capsys.readouterr().out
    row = next(row for row in metrics(tmp_path / "run") if "val_auc" in row)
    assert row["val_auc"] == pytest.approx((row["val_auc_level_2"] + row["val_auc_level_3"]) / 2)


def test_level_weights_that_do_not_fit_are_refused_before_the_cohort_is_encoded(tiny_store, pretrained, tmp_path, monkeypatch):
    import finetune.tokens as tokens

    monkeypatch.setattr(tokens, "encode", lambda *more: pytest.fail("encoded"))
    with pytest.raises(SystemExit, match=r"loss.level_weights \[1.0, 2.0\]: 2 weights for 3 levels of brain_mri"):
        main(arguments(tiny_store, pretrained, tmp_path / "run", "--loss.level_weights", "[1, 2]"))


def test_few_parameters_are_counted_out():
    assert [counted(number) for number in (29, 22_682, 4_567_890)] == ["29", "22,682", "4.57 M"]


@pytest.mark.parametrize(
    "kind",
    ["transhp", "decision_tree", "cascade"]
    + [pytest.param(kind, marks=pytest.mark.slow) for kind in ("linear", "prompt_vit", "isolated", "nearest")],
)
def test_every_baseline_trains(tiny_store, pretrained, tmp_path, kind):
    main(arguments(tiny_store, pretrained, tmp_path / "run", "--head.kind", kind, "--steps", "30", "--trackers", "[]"))
    losses = [row["loss"] for row in metrics(tmp_path / "run") if "loss" in row]
    assert losses[-1] < losses[0]
    diagnoser = load(tmp_path / "run")
    volumes = Store(tiny_store).volumes("s0")
    for scores, count in zip(diagnoser.diagnose(volumes, [len(volumes)]), (4, 6, 16), strict=True):
        assert scores.shape == (1, count)
        assert ((scores >= 0) & (scores <= 1)).all()

"""The model card of a fine-tuned model: README.md of its folder, from the content of its config.json alone.

As in `hlip.hub.card`, whose parts it is made of: what is not recorded is named, and no fact of another kind keeps a checkpoint from being
written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from hlip.hub.card import (
    NO_DEVICE,
    UNKNOWN,
    eval_results,
    header,
    input_lines,
    is_said,
    mapping,
    missing,
    modality,
    official_source,
    page,
    simulated,
    table,
    words,
)
from hlip.taxonomy import Taxonomy
from hp2l.heads import HeadConfig

TASK = "image-classification"
HEADS = {
    "hp2l": "HP2L: prompts and prototypes, handed from level to level (Liu et al., Medical Image Analysis 112, 2026, 104063)",
    "flat": "one linear layer for the last level; a class above scores as the highest one below it",
    "linear": "one linear layer for each level (linear probe)",
    "prompt_vit": "transformer blocks with learnt prompt tokens, without the tree",
    "transhp": "TransHP: prompts of the coarse levels, each with a loss of its own",
    "decision_tree": "a tree of prototypes whose distances are held to the tree's (our reading of HPDT)",
    "cascade": "one model for each inner class of the tree, the one above opening those below",
    "isolated": "one model for each level, which knows nothing of the others",
    "nearest": "the nearest prototypes of each class",
}
ENCODERS = {
    "hlip": "a vision transformer pretrained with reports (HLIP, Zhao et al., arXiv 2505.21862); it reads every scan of a study",
    "cnn": "a 3-D CNN over named scans, as that of the HP2L paper; it began at random",
    "image": "a 2-D backbone of timm",
}
TUNED = {
    "frozen": "frozen: its weights are as before fine-tuning",
    "last": "tuned: its last blocks were trained with the head",
    "all": "tuned: all of it was trained with the head",
    "lora": "tuned: low-rank additions were trained with the head, and are merged into its weights",
}


def diagnoser_card(description: Mapping[str, Any]) -> str:
    """Markdown with a YAML header.

    Args:
        description: the content of config.json: `head`, `taxonomy`, `encoder` (`kind`, `channels`, `volume_spec`, `backbone`, `facts`; absent
            in older folders), and `facts`, of which `step`, `studies`, `simulated`, `tuned`, `val_auc`, `val_auc_level_1`, ...,
            `license`, `data` and
            `without_training_studies` (entries like `level 3: glioma`) are read; and `scaling` (`hp2l.scaling`); each may be absent.
    """
    facts, encoder = mapping(description.get("facts")), mapping(description.get("encoder"))
    tree, spec = Taxonomy.from_dict(description["taxonomy"]), mapping(encoder.get("volume_spec"))
    before = mapping(encoder.get("facts"))
    areas = _areas(facts, tree)
    results = eval_results({**facts, "metrics": areas}, TASK)
    top = header("HP2L", facts, _tags(encoder, spec), results, official_source(before))
    parts = {
        "What it is": _architecture(description["head"], tree, encoder, facts),
        "Classes": _classes(tree, facts, mapping(description.get("scaling"))),
        "How to use it": _usage(),
        "Input": _input(encoder, spec),
        "Training data": _data(encoder, facts),
        "Results": _results(areas, tree, facts),
        "Limits": _limits(encoder, facts, mapping(description.get("scaling"))),
    }
    banner = simulated(facts, "Fine-tuned") if facts.get("simulated") is True else None
    return page(top, f"Hierarchical diagnoses over the tree {words(tree.name)}", banner, parts)


def _tags(encoder: Mapping[str, Any], spec: Mapping[str, Any]) -> list[str]:
    """Pictures of any kind are not radiology, and their channels are colours."""
    if spec.get("kind") == "image" or encoder.get("kind") == "image":
        return [TASK, "hierarchical-classification"]
    before = mapping(encoder.get("facts"))
    names = mapping(mapping(before.get("data")).get("sequences")) or dict.fromkeys(_channels(encoder), 1)
    kind = modality({"data": {"sequences": names}}, spec)
    return ["radiology", *([kind] if kind else []), TASK, "hierarchical-classification"]


def _architecture(head: Mapping[str, Any], tree: Taxonomy, encoder: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    counts = " / ".join(map(str, tree.counts))
    kind, backbone = str(encoder.get("kind")), encoder.get("backbone")
    lines = [
        f"An encoder of whole studies and a head that scores every class of a disease tree, {counts} of them on {tree.depth} level(s).",
        "",
        f"- encoder: `{kind}`, {ENCODERS.get(kind, kind)}" if encoder else f"- encoder: {UNKNOWN}",
    ]
    if is_said(backbone):
        start = "with pretrained weights" if encoder.get("pretrained") is True else UNKNOWN
        lines.append(f"- backbone: `{words(backbone)}`; its start: {start}")
    if official_source(mapping(encoder.get("facts"))):
        lines.append(f"- the encoder was an official checkpoint: {words(official_source(mapping(encoder.get('facts'))))}")
    tuned = facts.get("tuned")
    lines += [
        f"- fine-tuning of the encoder: {TUNED.get(str(tuned), words(tuned))}",
        f"- head: `{head['kind']}`, {HEADS[head['kind']]}",
    ]
    usual = {option.name: option.default for option in fields(HeadConfig)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in head.items() if name != "kind"}
    rows = [
        (f"`{name}`", _value(value), _value(usual[name]))
        for name, value in given.items()
        if name in usual and value != usual[name]
    ]
    if not rows:
        return [*lines, "- options of the head: all as they are by default"]
    return [*lines, "", *table(("option of the head", "value", "by default"), rows)]


def _value(value: Any) -> Any:
    """Of an option, where nothing given is a value too."""
    return "none" if value is None else value


def _classes(tree: Taxonomy, facts: Mapping[str, Any], scaling: Mapping[str, Any]) -> list[str]:
    lines = [
        f"- level {level}, {words(name)} ({len(classes)}): {words(list(classes))}"
        for level, (name, classes) in enumerate(zip(tree.level_names, tree.levels, strict=True), start=1)
    ]
    if tree.normal is not None:
        lines += ["", f"`{words(tree.normal)}` stands for nothing found."]
    if isinstance(absent := facts.get("without_training_studies"), list) and absent:
        lines += ["", f"**Not learnt**, as no training study had them, whatever their scores say: {words(absent)}."]
    if unseen := _without_validation(tree, scaling):
        lines += ["", f"No validation study had these, so that nothing was checked of them: {words(unseen)}."]
    return lines


def _without_validation(tree: Taxonomy, scaling: Mapping[str, Any]) -> list[str]:
    """Classes whose probabilities were fitted on studies that all lack them."""
    levels = scaling.get("levels")
    if not isinstance(levels, list) or len(levels) != tree.depth:
        return []
    return [
        f"level {level}: {name}"
        for level, (names, rules) in enumerate(zip(tree.levels, levels, strict=True), start=1)
        for name, rule in zip(names, rules, strict=False)
        if rule.get("positives") == 0 and rule.get("negatives")
    ]


def _usage() -> list[str]:
    return [
        "```python",
        "import hp2l",
        "from hlip.store import Store",
        "",
        'model = hp2l.Diagnoser.from_pretrained("FOLDER_OR_HUB_ID")  # or hp2l.load',
        'store = Store("STORE")  # written by `hlip prepare`',
        "volumes = model.encoder.reader(store, store.records[0])  # (n, 1, D, H, W) uint8 of one study",
        "levels = model.diagnose(volumes, [len(volumes)])  # of each level (1, K) scores in [0, 1]",
        "for names, scores in zip(model.taxonomy.levels, model.comparable(levels)):",
        "    print(names[scores[0].argmax()], float(scores[0].max()))",
        "```",
        "",
        "```",
        "hlip diagnose FOLDER_OR_HUB_ID STUDY",
        "```",
    ]


def _input(encoder: Mapping[str, Any], spec: Mapping[str, Any]) -> list[str]:
    names = _channels(encoder)
    read = {
        True: [f"Of a study it reads, by name and in this order: {words(names)}. One that is absent is read as zeros.", ""],
        False: ["It reads every scan of a study, whatever they are called.", ""] if encoder else [],
    }
    return [*read[bool(names)], *input_lines(spec, "`hlip diagnose` and `hlip prepare`")]


def _channels(encoder: Mapping[str, Any]) -> list[str]:
    names = encoder.get("channels")
    return [str(name) for name in names] if isinstance(names, (list, tuple)) else []


def _data(encoder: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    before = mapping(encoder.get("facts"))
    lines = [simulated(facts, "Fine-tuned"), "", f"- studies: {words(facts.get('studies'))}"]
    lines += [f"- {words(name)}: {words(value)}" for name, value in mapping(facts.get("data")).items() if is_said(value)]
    if encoder.get("kind") == "hlip":
        lines += [f"- before, the encoder was pretrained on {words(before.get('studies'))} studies. {simulated(before)}"]
    return lines


def _areas(facts: Mapping[str, Any], tree: Taxonomy) -> dict[str, Any]:
    """The facts' validation AUCs, the tree's levels first: NaN where null says that it is not defined; empty if none is."""
    names = [*(f"val_auc_level_{level}" for level in range(1, tree.depth + 1)), "val_auc"]
    found = {name: math.nan if facts[name] is None else facts[name] for name in names if name in facts}
    found = {name: value for name, value in found.items() if is_said(value)}
    levels = [value for name, value in found.items() if name != "val_auc"] or list(found.values())
    return {} if all(isinstance(value, float) and math.isnan(value) for value in levels) else found


def _results(areas: Mapping[str, Any], tree: Taxonomy, facts: Mapping[str, Any]) -> list[str]:
    if not areas and "val_auc" in facts:
        return [
            "No AUC on validation: no disease had studies with and without it there. The checkpoint is the last one validated."
        ]
    if not areas:
        return [f"Metrics: {UNKNOWN}."]
    rows = []
    for name, value in areas.items():
        found = re.fullmatch(r"val_auc_level_(\d+)", name)
        label = f"level {found[1]}, {words(tree.level_names[int(found[1]) - 1])}" if found else "mean of the levels"
        rows.append((label, value, "validation"))
    return [
        *table(("level", "AUC", "split"), rows),
        "",
        "AUC: mean over a level's diseases that had studies with and without them.",
        f"These are on validation, where the checkpoint was chosen (step {words(facts.get('step'))}): they tend to be higher than on new "
        "patients.",
    ]


def _limits(encoder: Mapping[str, Any], facts: Mapping[str, Any], scaling: Mapping[str, Any]) -> list[str]:
    data = mapping(facts.get("data"))
    asked = {
        "licence": facts.get("license"),
        "encoder": encoder.get("kind"),
        "patients": data.get("patients"),
        "ages and sexes": data.get("ages"),
        "scanners and sites": data.get("sites"),
        "results on a test split": facts.get("test_auc"),
    }
    return [
        f"- {simulated(facts, 'Fine-tuned')}",
        NO_DEVICE,
        "- Scores are not calibrated: each is a class's sigmoid by itself, which ranks studies for that class and is no probability.",
        *([_scaled(scaling)] if scaling else []),
        "- It scores the classes above and no others: a finding outside the tree goes unnoticed.",
        missing(asked),
    ]


def _scaled(scaling: Mapping[str, Any]) -> str:
    return (
        f"- Probabilities (`model.comparable`, `hlip diagnose`) are the scores after Platt scaling on the {words(scaling.get('studies'))} "
        "validation studies on which the checkpoint was chosen. They hold where diseases are as frequent as there; elsewhere fit anew. "
        "Levels with too few of them keep their raw scores."
    )

"""The model card of a checkpoint: README.md with the YAML header that the Hugging Face hub reads.

Every number and every claim comes from config.json; what is not in it is named in one line as not recorded. Facts are read with care for
their kind, since a card must never be the reason why a checkpoint is not written.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from hlip.hub import LIBRARY
from hlip.text import TextConfig
from hlip.vision import VisionConfig

UNKNOWN = "not recorded"
SPLITS = {"val": "validation", "test": "test", "train": "training"}
TOWARDS = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "I": "inferior", "S": "superior"}
POOLS = {"dinotxt": "each class token joined with the mean patch token", "class": "the class token alone"}
POSITIONS = {
    "depth_plane": "fixed sine-cosine table of depth plus plane",
    "space": "fixed sine-cosine table, a third of the channels an axis",
    "rotary": "rotary over three axes",
}
MEASURES = {
    "balanced_accuracy": "balanced_accuracy",
    "average_precision": "average_precision",
    "auc": "roc_auc",
    "accuracy": "accuracy",
    "recall": "recall",
    "precision": "precision",
    "f1": "f1",
}
"""Part of a metric's name -> the measure's name on the hub, first match; other metrics stand in the table alone."""
PROCEDURE = {
    "steps": "steps planned",
    "batch_size": "studies a step",
    "precision": "mixed precision",
    "seed": "seed",
    "optimizer.lr": "peak learning rate",
    "optimizer.warmup_steps": "warm-up steps",
    "optimizer.weight_decay": "weight decay",
    "loss.sentence": "weight of the sentence loss",
    "loss.report": "weight of the report loss",
    "sampling.max_scans": "scans drawn from a study, at most",
}
"""Settings that every card shows or names as not recorded, and what they are; others follow under their own names."""


def model_card(description: Mapping[str, Any]) -> str:
    """Markdown with a YAML header.

    Args:
        description: the content of config.json: `format`, `model`, `volume_spec`, `facts`. Of the facts, `license`, `step`, `studies`,
            `simulated`, `prompts`, `parameters`, `training`, `metrics`, `chosen_by` (the metric that chose the checkpoint), `data`,
            `weights`, `official` or `source`, `keys` are read; each may be absent.
            `parameters` beside the facts is the model's number of them, where the facts do not tell.
    """
    facts = _mapping(description.get("facts"))
    facts = {"parameters": description.get("parameters"), **facts}
    spec = _mapping(description.get("volume_spec"))
    parts = {
        "What it is": _architecture(description["model"], facts),
        "How to use it": _usage(str(description["model"]["prefix"])),
        "Input": _input(spec),
        "Training data": _data(facts),
        "Training procedure": _procedure(facts),
        "Results": _results(facts),
        "Limits": _limits(facts),
    }
    body = "\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in parts.items())
    banner = f"**{_simulated(facts)}**\n\n" if facts.get("simulated") is True else ""
    return f"---\n{_header(facts, spec).to_yaml()}\n---\n\n# HLIP: whole radiology studies and texts in one space\n\n{banner}{body}\n"


def _header(facts: Mapping[str, Any], spec: Mapping[str, Any]) -> ModelCardData:
    modality = _modality(facts, spec)
    results = _eval_results(facts)
    license_ = facts.get("license")
    source = re.fullmatch(r"hf-hub:([\w.-]+/[\w.-]+?)(@.+)?", str(_official(facts)))
    return ModelCardData(
        library_name=LIBRARY,
        license=str(license_) if license_ else None,
        base_model=source[1] if source else None,
        tags=["radiology", *([modality] if modality else []), "zero-shot-image-classification"],
        model_name="HLIP" if results else None,
        eval_results=results or None,
    )


def _modality(facts: Mapping[str, Any], spec: Mapping[str, Any]) -> str | None:
    """ct or mri, from the windows in HU or from the names of the sequences; None where they do not tell or tell both."""
    names = [str(name).upper() for name in _mapping(_mapping(facts.get("data")).get("sequences"))]
    kinds = {
        "ct" if re.match(r"CT", name) else "mri" for name in names if re.match(r"CT|MR|T1|T2|FLAIR|DWI|ADC|SWI|GRE|PD", name)
    }
    if spec.get("windows"):
        kinds.add("ct")
    return kinds.pop() if len(kinds) == 1 else None


def _eval_results(facts: Mapping[str, Any]) -> list[EvalResult]:
    """Those metrics that the hub has a name for, and that are numbers."""
    simulated = facts.get("simulated") is True
    found = []
    for name, value in _mapping(facts.get("metrics")).items():
        measure = next((hub for part, hub in MEASURES.items() if f"_{part}_" in f"_{name}_".lower()), None)
        if measure is None or not _is_number(value) or not math.isfinite(value):
            continue
        split = _split_of(str(name), facts)
        found.append(
            EvalResult(
                task_type="image-text-retrieval" if measure == "recall" else "zero-shot-image-classification",
                dataset_type="simulated" if simulated else "unnamed",
                dataset_name=f"{'simulated studies' if simulated else 'studies'}, {split} split"
                if split
                else "studies, split not recorded",
                dataset_split=split,
                metric_type=measure,
                metric_name=str(name),
                metric_value=float(value),
            )
        )
    return found


def _split_of(name: str, facts: Mapping[str, Any]) -> str | None:
    """The split a metric was measured on: as its name says, else the one that validation watched."""
    watched = _mapping(_mapping(facts.get("training")).get("validation")).get("split")
    said = name.split("_")[0]
    if said in SPLITS:
        return SPLITS[said]
    return SPLITS.get(watched, watched) if isinstance(watched, str) else None


def _architecture(model: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    vision, text = VisionConfig(**model["vision"]), TextConfig(**model["text"])
    scopes = ", ".join(f"{count} of {scope} scope" for scope, count in Counter(vision.scopes).items())
    tokens = (
        "2 class tokens, one for sentences and one for reports"
        if vision.class_tokens == 2
        else f"{vision.class_tokens} class token(s)"
    )
    lines = [
        "A vision transformer that reads a whole study of any number of scans, and a text tower; attention runs within a slice, a scan or",
        "the study, block by block. Method: HLIP, Zhao et al., arXiv 2505.21862.",
        "",
        f"- scan: {_times(vision.size)} voxels (D x H x W) in patches of {_times(vision.patch)}: a grid of {_times(vision.grid)}, "
        f"{math.prod(vision.grid)} tokens a scan",
        f"- vision tower: {len(vision.scopes)} blocks ({scopes}), {vision.width} channels, {vision.heads} heads; {tokens}",
        f"- pooling: {POOLS.get(vision.pool, vision.pool)}; position: {POSITIONS.get(vision.position, vision.position)}"
        + (f", with {vision.sequence_positions} places in the study" if vision.sequence_positions else ""),
        f"- text tower: {_text_tower(text, facts)}; context of {text.context_length} tokens{'; locked' if text.locked else ''}",
        f"- joint space: {model['embed_dim']} channels; objective: {model['objective']}",
    ]
    if vision.patch_norm:
        lines.append("- patches are standardised and freed of the training set's mean patch; the grid is fixed")
    if _is_said(facts.get("parameters")):
        lines.append(f"- parameters: {_words(facts['parameters'])}")
    if _official(facts):
        keys = f"; {_words(facts['keys'])}" if _is_said(facts.get("keys")) else ""
        lines.append(f"- converted from an official checkpoint: {_words(_official(facts))}{keys}")
    return lines


def _text_tower(text: TextConfig, facts: Mapping[str, Any]) -> str:
    if text.source:
        return f"BERT of {_named(text.source)}"
    if _official(facts):
        return f"BERT, its source {UNKNOWN}"
    return f"BERT grown from reports, {text.depth} layers of {text.width} channels"


def _usage(prefix: str) -> list[str]:
    return [
        "```python",
        "import hlip",
        'model = hlip.HLIP.from_pretrained("FOLDER_OR_HUB_ID")  # or hlip.load',
        "study = model.encode_study(volumes, [len(volumes)])  # (n, 1, D, H, W) uint8 of its n prepared scans -> (1, P, E), unit length",
        f"texts = model.encode_text([{json.dumps(prefix + 'FINDING.', ensure_ascii=False)}])  # (1, E)",
        "```",
        "",
        "```",
        'hlip ask FOLDER_OR_HUB_ID STUDY "FINDING" "ANOTHER FINDING"',
        "```",
    ]


def _input(spec: Mapping[str, Any]) -> list[str]:
    if not spec:
        return [f"How a scan must be prepared: {UNKNOWN} (no VolumeSpec)."]
    towards = [TOWARDS.get(letter, letter) for letter in str(spec.get("orientation"))]
    windows = [f"{name}, level {level:g} and width {width:g} HU" for name, level, width in spec.get("windows") or ()]
    if windows:
        values = f"one volume a window: {'; '.join(windows)}"
    else:
        values = f"intensities between the percentiles {_words(spec.get('percentiles'))} spread over 0 to 255"
    if spec.get("fit") == "square":
        fit = f"padded to a square, resized to {_times(spec.get('resize'))} in the plane, cut to size"
    else:
        fit = f"resampled to {_times(spec.get('spacing_mm'))} mm along the axes of the {spec.get('frame')}, then padded or cut around "
        fit += "what is not background" if spec.get("centre") == "foreground" else "the middle of the scan"
    depth = "z" if spec.get("through_plane") == "axial" else "the axis of largest spacing"
    return [
        f"- size: {_times(spec.get('size'))} voxels (D x H x W), 8 bits; D is {depth}",
        f"- window: {values}",
        f"- orientation {spec.get('orientation')}: x grows to the {', y to the '.join(towards[:2])}, z to the {towards[-1]}",
        f"- fit: {fit}",
        "",
        "`hlip ask` and `hlip prepare` do this to NIfTI files and DICOM series.",
    ]


def _data(facts: Mapping[str, Any]) -> list[str]:
    data = _mapping(facts.get("data"))
    rows = {
        "studies": data.get("studies", facts.get("studies")),
        "scans": data.get("scans"),
        "patients": data.get("patients"),
        "sequences": data.get("sequences"),
        "split": data.get("split"),
    }
    others = {str(name): value for name, value in data.items() if name not in rows}
    known = [f"- {name}: {_words(value)}" for name, value in (rows | others).items() if _is_said(value)]
    silent = [name for name, value in rows.items() if not _is_said(value)]
    return [_simulated(facts), "", *known, *_unsaid("The training data", known, silent)]


def _procedure(facts: Mapping[str, Any]) -> list[str]:
    settings = _flat(_mapping(facts.get("training")))
    rows = [("steps done", facts.get("step")), ("weights", facts.get("weights"))]
    rows += [(meaning, settings.pop(name, None)) for name, meaning in PROCEDURE.items()]
    known = [(name, value) for name, value in rows if _is_said(value)]
    known += [(f"`{name}`", "null" if value is None else value) for name, value in settings.items()]
    table = _table(("setting", "value"), known) if known else []
    return [*table, *_unsaid("How it was trained", known, [name for name, value in rows if not _is_said(value)])]


def _results(facts: Mapping[str, Any]) -> list[str]:
    metrics = _mapping(facts.get("metrics"))
    if not metrics:
        return [f"Metrics: {UNKNOWN}."]
    rows = [(f"`{name}`", value, _split_of(str(name), facts)) for name, value in metrics.items()]
    prompts = f"Prompt set of zero-shot scores: {_words(facts.get('prompts'))}."
    if facts.get("chosen_by"):
        choice = f"`{facts['chosen_by']}` chose this checkpoint"
    else:
        choice = f"Whether one of these numbers chose the checkpoint: {UNKNOWN}"
    caution = (
        "numbers of a split that chose it, or was watched while settings were chosen, tend to be higher than on new patients."
    )
    return [*_table(("metric", "value", "split"), rows), "", prompts, f"{choice}; {caution}"]


def _limits(facts: Mapping[str, Any]) -> list[str]:
    data = _mapping(facts.get("data"))
    asked = {
        "licence": facts.get("license"),
        "patients": data.get("patients"),
        "sequences": data.get("sequences"),
        "ages and sexes": data.get("ages"),
        "scanners and sites": data.get("sites"),
        "results on a test split": [name for name in _mapping(facts.get("metrics")) if str(name).startswith("test_")],
    }
    missing = ", ".join(name for name, value in asked.items() if not value)
    return [
        f"- {_simulated(facts)}",
        "- Not a medical device: not for diagnosis or treatment.",
        "- Zero-shot scores follow the language of the training reports: what reports seldom mention, or word differently than the",
        "  question, is scored worse, and another wording of the same question gives another score.",
        f"- Not recorded here, so not known: {missing or 'nothing of what this card asks for'}.",
    ]


def _simulated(facts: Mapping[str, Any]) -> str:
    known = facts.get("simulated")
    if known is True:
        return "Trained on SIMULATED studies only: its scores say nothing about real patients."
    if known is False:
        return "The training studies do not all say of themselves that they are simulated."
    return f"Whether the training studies were simulated: {UNKNOWN}."


def _official(facts: Mapping[str, Any]) -> Any:
    """Where an official checkpoint came from; None for a model of ours."""
    return facts.get("official") or (facts.get("source") if facts.get("kind") == "official" else None)


def _unsaid(subject: str, known: Sequence[Any], silent: Sequence[str]) -> list[str]:
    """One line on what is not recorded, after a table or list of what is."""
    if not known:
        return [f"{subject}: {UNKNOWN}."]
    return ["", f"{UNKNOWN.capitalize()}: {', '.join(silent)}."] if silent else []


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    lines = [head, ("---",) * len(head), *((row[0], *map(_words, row[1:])) for row in rows)]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) and value else {f"{before}{name}": value}
    return flat


def _words(value: Any) -> str:
    """A value as a reader meets it, on one line."""
    if not _is_said(value):
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "not defined" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(name)} {_words(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value))
    return _named(value)


def _is_said(value: Any) -> bool:
    """Whether a fact says anything."""
    return value is not None and not (isinstance(value, (str, list, tuple, dict)) and not value)


def _named(value: Any) -> str:
    """A name on one line; of an absolute path, which says nothing elsewhere, its last part."""
    text = " ".join(str(value).split())
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(text).is_absolute():
            return kind(text).name
    return text


def _times(sizes: Any) -> str:
    return " x ".join(f"{size:g}" for size in sizes or ())


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

"""The model card of a checkpoint: README.md with the YAML header that the Hugging Face hub reads.

Every number and every claim comes from config.json; what is not in it is named in one line as not recorded. Facts are read with care for
their kind, since a card must never be the reason why a checkpoint is not written. `hp2l.card` writes that of a fine-tuned model with the
same parts.
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

from hlip.hub.conventions import LIBRARY
from hlip.text import TextConfig
from hlip.vision import VisionConfig

UNKNOWN = "not recorded"
NO_DEVICE = "- Not a medical device: not for diagnosis or treatment."
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
    facts = mapping(description.get("facts"))
    facts = {"parameters": description.get("parameters"), **facts}
    spec = mapping(description.get("volume_spec"))
    parts = {
        "What it is": _architecture(description["model"], facts),
        "How to use it": _usage(str(description["model"]["prefix"])),
        "Input": input_lines(spec),
        "Training data": _data(facts),
        "Training procedure": _procedure(facts),
        "Results": _results(facts),
        "Limits": _limits(facts),
    }
    task = "zero-shot-image-classification"
    kind = modality(facts, spec)
    tags = ["radiology", *([kind] if kind else []), task]
    top = header("HLIP", facts, tags, eval_results(facts, task), official_source(facts))
    banner = simulated(facts) if facts.get("simulated") is True else None
    return page(top, "HLIP: whole radiology studies and texts in one space", banner, parts)


def page(top: ModelCardData, title: str, banner: str | None, parts: Mapping[str, Iterable[str]]) -> str:
    """The whole card.

    Args:
        top: its YAML header.
        title: of the page.
        banner: a sentence above all else.
        parts: title of each section -> its lines.
    """
    warning = f"**{banner}**\n\n" if banner else ""
    body = "\n\n".join(f"## {name}\n\n" + "\n".join(lines) for name, lines in parts.items())
    return f"---\n{top.to_yaml()}\n---\n\n# {title}\n\n{warning}{body}\n"


def header(name: str, facts: Mapping[str, Any], tags: list[str], results: list[EvalResult], source: Any) -> ModelCardData:
    """What the hub reads.

    Args:
        name: of the model, shown with its results.
        facts: of which the licence is taken.
        tags: what the hub finds it by.
        results: of `eval_results`.
        source: where the weights came from; a hub id becomes the base model.
    """
    license_ = facts.get("license")
    base = re.fullmatch(r"hf-hub:([\w.-]+/[\w.-]+?)(@.+)?", str(source))
    return ModelCardData(
        library_name=LIBRARY,
        license=str(license_) if license_ else None,
        base_model=base[1] if base else None,
        tags=tags,
        model_name=name if results else None,
        eval_results=results or None,
    )


def modality(facts: Mapping[str, Any], spec: Mapping[str, Any]) -> str | None:
    """ct or mri, from the windows in HU or from the names of the sequences; None where they do not tell or tell both."""
    names = [str(name).upper() for name in mapping(mapping(facts.get("data")).get("sequences"))]
    kinds = {
        "ct" if re.match(r"CT", name) else "mri" for name in names if re.match(r"CT|MR|T1|T2|FLAIR|DWI|ADC|SWI|GRE|PD", name)
    }
    if spec.get("windows"):
        kinds.add("ct")
    return kinds.pop() if len(kinds) == 1 else None


def eval_results(facts: Mapping[str, Any], task: str) -> list[EvalResult]:
    """Those of the facts' metrics that the hub has a name for, and that are numbers.

    Args:
        facts: `metrics`, `simulated`, and which split was watched.
        task: the hub's name of what was measured; a recall is always retrieval.
    """
    made_up = facts.get("simulated") is True
    found = []
    for name, value in mapping(facts.get("metrics")).items():
        measure = next((hub for part, hub in MEASURES.items() if f"_{part}_" in f"_{name}_".lower()), None)
        if measure is None or not is_number(value) or not math.isfinite(value):
            continue
        split = _split_of(str(name), facts)
        found.append(
            EvalResult(
                task_type="image-text-retrieval" if measure == "recall" else task,
                dataset_type="simulated" if made_up else "unnamed",
                dataset_name=f"{'simulated studies' if made_up else 'studies'}, {split} split"
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
    watched = mapping(mapping(facts.get("training")).get("validation")).get("split")
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
    if is_said(facts.get("parameters")):
        lines.append(f"- parameters: {words(facts['parameters'])}")
    if official_source(facts):
        keys = f"; {words(facts['keys'])}" if is_said(facts.get("keys")) else ""
        lines.append(f"- converted from an official checkpoint: {words(official_source(facts))}{keys}")
    return lines


def _text_tower(text: TextConfig, facts: Mapping[str, Any]) -> str:
    if text.source:
        return f"BERT of {_named(text.source)}"
    if official_source(facts):
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


def input_lines(spec: Mapping[str, Any], commands: str = "`hlip ask` and `hlip prepare`") -> list[str]:
    """How scans or images must be prepared.

    Args:
        spec: a VolumeSpec as plain values; empty if there is none.
        commands: those that prepare.
    """
    if not spec:
        return [f"How a scan must be prepared: {UNKNOWN} (no VolumeSpec)."]
    if spec.get("kind") == "image":
        return [
            "- 2-D colour images: red, green and blue are three volumes of one plane, their 8-bit values as they are",
            f"- padded to a square, resized to {_times(spec.get('resize'))}, cut to {_times(spec.get('size'))} (D x H x W)",
            "",
            f"{commands} do this to image files.",
        ]
    towards = [TOWARDS.get(letter, letter) for letter in str(spec.get("orientation"))]
    windows = [f"{name}, level {level:g} and width {width:g} HU" for name, level, width in spec.get("windows") or ()]
    if windows:
        values = f"one volume a window: {'; '.join(windows)}"
    else:
        values = f"intensities between the percentiles {words(spec.get('percentiles'))} spread over 0 to 255"
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
        f"{commands} do this to NIfTI files and DICOM series.",
    ]


def _data(facts: Mapping[str, Any]) -> list[str]:
    data = mapping(facts.get("data"))
    rows = {
        "studies": data.get("studies", facts.get("studies")),
        "scans": data.get("scans"),
        "patients": data.get("patients"),
        "sequences": data.get("sequences"),
        "split": data.get("split"),
    }
    others = {str(name): value for name, value in data.items() if name not in rows}
    known = [f"- {name}: {words(value)}" for name, value in (rows | others).items() if is_said(value)]
    silent = [name for name, value in rows.items() if not is_said(value)]
    return [simulated(facts), "", *known, *_unsaid("The training data", known, silent)]


def _procedure(facts: Mapping[str, Any]) -> list[str]:
    settings = _flat(mapping(facts.get("training")))
    rows = [("steps done", facts.get("step")), ("weights", facts.get("weights"))]
    rows += [(meaning, settings.pop(name, None)) for name, meaning in PROCEDURE.items()]
    known = [(name, value) for name, value in rows if is_said(value)]
    known += [(f"`{name}`", "null" if value is None else value) for name, value in settings.items()]
    told = table(("setting", "value"), known) if known else []
    return [*told, *_unsaid("How it was trained", known, [name for name, value in rows if not is_said(value)])]


def _results(facts: Mapping[str, Any]) -> list[str]:
    metrics = mapping(facts.get("metrics"))
    if not metrics:
        return [f"Metrics: {UNKNOWN}."]
    rows = [(f"`{name}`", value, _split_of(str(name), facts)) for name, value in metrics.items()]
    prompts = f"Prompt set of zero-shot scores: {words(facts.get('prompts'))}."
    if facts.get("chosen_by"):
        choice = f"`{facts['chosen_by']}` chose this checkpoint"
    else:
        choice = f"Whether one of these numbers chose the checkpoint: {UNKNOWN}"
    caution = (
        "numbers of a split that chose it, or was watched while settings were chosen, tend to be higher than on new patients."
    )
    return [*table(("metric", "value", "split"), rows), "", prompts, f"{choice}; {caution}"]


def _limits(facts: Mapping[str, Any]) -> list[str]:
    data = mapping(facts.get("data"))
    asked = {
        "licence": facts.get("license"),
        "patients": data.get("patients"),
        "sequences": data.get("sequences"),
        "ages and sexes": data.get("ages"),
        "scanners and sites": data.get("sites"),
        "results on a test split": [name for name in mapping(facts.get("metrics")) if str(name).startswith("test_")],
    }
    return [
        f"- {simulated(facts)}",
        NO_DEVICE,
        "- Zero-shot scores follow the language of the training reports: what reports seldom mention, or word differently than the",
        "  question, is scored worse, and another wording of the same question gives another score.",
        missing(asked),
    ]


def missing(asked: Mapping[str, Any]) -> str:
    """The line that names what config.json does not tell, of name -> what it tells."""
    names = ", ".join(name for name, value in asked.items() if not value)
    return f"- Not recorded here, so not known: {names or 'nothing of what this card asks for'}."


def simulated(facts: Mapping[str, Any], trained: str = "Trained") -> str:
    """Whether the training studies were simulated, in one sentence."""
    known = facts.get("simulated")
    if known is True:
        return f"{trained} on SIMULATED studies only: its scores say nothing about real patients."
    if known is False:
        return "The training studies do not all say of themselves that they are simulated."
    return f"Whether the training studies were simulated: {UNKNOWN}."


def official_source(facts: Mapping[str, Any]) -> Any:
    """Where an official checkpoint came from; None for a model of ours."""
    return facts.get("official") or (facts.get("source") if facts.get("kind") == "official" else None)


def _unsaid(subject: str, known: Sequence[Any], silent: Sequence[str]) -> list[str]:
    """One line on what is not recorded, after a table or list of what is."""
    if not known:
        return [f"{subject}: {UNKNOWN}."]
    return ["", f"{UNKNOWN.capitalize()}: {', '.join(silent)}."] if silent else []


def table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    """A Markdown table; the first column's cells stand as they are, the others as `words`."""
    lines = [head, ("---",) * len(head), *((row[0], *map(words, row[1:])) for row in rows)]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) and value else {f"{before}{name}": value}
    return flat


def words(value: Any) -> str:
    """A value as a reader meets it, on one line."""
    if not is_said(value):
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "not defined" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{words(name)} {words(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(words, value))
    return _named(value)


def is_said(value: Any) -> bool:
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


def mapping(value: Any) -> Mapping[str, Any]:
    """A fact that should be a mapping; an empty one where it is not."""
    return value if isinstance(value, Mapping) else {}


def is_number(value: Any) -> bool:
    """An int or a float, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)

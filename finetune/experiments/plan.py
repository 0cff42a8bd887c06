"""Which experiments there are, and which runs they come to.

An experiment is a YAML file: a question, and variants as overrides of one shared configuration.

    title: Depth of the tree
    question: Is the finest level learnt better with the coarser ones before it?
    source: where the published numbers stand
    reference: hp2l                 # the variant that the others are compared with
    variants:
      - name: hp2l
        label: "{levels} (HP2L)"    # {levels}, {counts}: of its tree, as 3 levels, 4 / 6 / 16
        published: {bacc_3: 88.43}  # %, keys as in `measures`
      - name: depth_1
        label: 1 level
        depth: 1                    # the tree cut to this many levels, the last always among them
        overrides: {head.momentum: 0.9}

Two variants that come to the same configuration are one run, whatever experiments they stand in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from finetune.settings import FinetuneConfig
from hlip.config import parse_config, plain
from hlip.files import resources
from hlip.files.folders import write_atomically
from hlip.taxonomy import Taxonomy
from hp2l.encoders import FRESH

PUBLISHED = ("auc_1", "bacc_1", "auc_2", "bacc_2", "auc_3", "bacc_3", "drop_auc", "drop_bacc")
"""Numbers that a paper may have published of a variant."""
OWN = {"encoder", "store", "out", "tokens", "seed", "seeds", "steps", "threads", "trackers", "resume", "patience"}
"""What the command sets itself, so that no variant may."""


PUBLISHED_TREE = (4, 6, 16)
"""Classes a level of the paper's tree: built-in experiments have their published numbers beside such a one alone."""
REVISION = 3
"""To be raised where a default or a method changes its meaning: runs of before are then trained again."""


class ExperimentError(ValueError):
    """An experiment that cannot be read; the message names file, fault and remedy."""


@dataclass(frozen=True)
class Variant:
    """One row of an experiment's table."""

    name: str
    label: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """`head.prompt: none`: as `--head.prompt none` on the command line of fine-tuning."""
    depth: int | None = None
    """Levels of the tree, `Taxonomy.to_depth`; None: all."""
    published: Mapping[str, float] = field(default_factory=dict)
    """Measure (of PUBLISHED) -> value in %."""
    note: str = ""
    reading: bool = False
    """Our reading of a method whose recipe is not public: its published numbers stand beside it, and are put in no order."""


@dataclass(frozen=True)
class Experiment:
    """A question and the variants that answer it."""

    name: str
    title: str
    question: str
    variants: tuple[Variant, ...]
    reference: str
    source: str = ""
    note: str = ""
    built_in: bool = False
    """Of configs/experiments, so that a page shows it whenever its runs are there."""

    @classmethod
    def load(cls, name_or_path: str | Path) -> Experiment:
        """Read one: a built-in name or a YAML file.

        Raises:
            ResourceError: neither exists.
            ExperimentError: an unknown key, a missing one, or a reference that is no variant.
        """
        path = resources.find("experiments", name_or_path)
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        try:
            variants = tuple(Variant(**entry) for entry in content.pop("variants"))
            built_in = path == resources.configs_folder() / "experiments" / path.name
            found = cls(name=path.stem, variants=variants, built_in=built_in, **content)
        except (TypeError, KeyError, AttributeError) as error:
            raise ExperimentError(f"{path}: {error} (keys: title, question, source, note, reference, variants)") from error
        found._check(path)
        return found

    def _check(self, path: Path) -> None:
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names) or self.reference not in names:
            raise ExperimentError(f"{path}: reference '{self.reference}' must be one of the variants, each named once: {names}")
        for variant in self.variants:
            if unknown := set(variant.published) - set(PUBLISHED):
                raise ExperimentError(f"{path}, {variant.name}: published {sorted(unknown)} is none of {', '.join(PUBLISHED)}")
            if taken := {key.split(".")[0] for key in variant.overrides} & OWN:
                raise ExperimentError(f"{path}, {variant.name}: {sorted(taken)} are the command's own; leave them out")


def experiment_names() -> list[str]:
    """The built-in experiments, the main table first."""
    return sorted(resources.names("experiments"), key=lambda name: (name != "main_table", name))


def experiments(only: Sequence[str] | None = None, variants: Sequence[str] | None = None) -> list[Experiment]:
    """The experiments asked for, all built-in ones by default, the main table first; of them only some variants, if named.

    Raises:
        ExperimentError: two of one name, or a variant that none of them has.
    """
    names = list(only) if only else experiment_names()
    found = [Experiment.load(name) for name in names]
    if len({experiment.name for experiment in found}) < len(found):
        raise ExperimentError(f"--only {' '.join(names)}: two experiments of one name; rename a file")
    if not variants:
        return found
    known = {variant.name for experiment in found for variant in experiment.variants}
    if unknown := set(variants) - known:
        raise ExperimentError(
            f"no variant {', '.join(sorted(unknown))} in {', '.join(names)} (there are: {', '.join(sorted(known))})"
        )
    chosen = [(experiment, [variant for variant in experiment.variants if variant.name in variants]) for experiment in found]
    return [_only(experiment, some) for experiment, some in chosen if some]


def _only(experiment: Experiment, variants: Sequence[Variant]) -> Experiment:
    """An experiment with some of its variants, the first in place of a reference that is not among them."""
    first = experiment.reference if experiment.reference in [v.name for v in variants] else variants[0].name
    return replace(experiment, variants=tuple(variants), reference=first)


@dataclass(frozen=True)
class Setting:
    """What all runs share."""

    encoder: Path
    store: Path
    out: Path
    base: str = "demo"
    steps: int | None = None
    threads: int = 0
    data: str = ""
    """Digest of encoder and store: other data, other runs."""
    taxonomy: str | None = None
    """The shared tree; None: that of the configuration."""
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Fine-tuning's fields for all variants, below what a variant says itself."""
    labels: frozenset[str] = frozenset()
    """Labels that the store's studies have."""


def parse_overrides(given: Sequence[str]) -> dict[str, str]:
    """`head.width=72` -> its key and value; whether there is such a field, fine-tuning's own parser says.

    Raises:
        ExperimentError: no `=`, or a field that the command sets itself.
    """
    found = {}
    for text in given:
        key, sign, value = text.partition("=")
        if not (key and sign):
            raise ExperimentError(f"--override {text}: give KEY=VALUE, such as head.width=72")
        if key.split(".")[0] in OWN | {"taxonomy", "config"}:
            raise ExperimentError(
                f"--override {text}: the command sets {key} itself (see hlip experiments --help for its option)"
            )
        found[key] = value
    return found


def suited(found: Sequence[Experiment], setting: Setting) -> tuple[list[Experiment], list[str]]:
    """The experiments that the shared tree and the encoder allow, and a sentence for each variant that they do not.

    Of an experiment that loses any, nothing is left if it has nothing to compare.

    Raises:
        ExperimentError: the encoder starts at random and is not trained.
    """
    _check_encoder(setting)
    tree = make_job(Variant("shared", "shared"), setting).tree
    kept, sentences = [], []
    for experiment in found:
        some = []
        for variant in experiment.variants:
            if why := _unsuited(variant, experiment, tree, setting):
                sentences.append(f"Left out of '{experiment.title}': {_label(variant, tree)}; {why}.")
            else:
                some.append(replace(variant, label=make_job(variant, setting).label))
        if len(some) == len(experiment.variants) or len(some) > 1:
            kept.append(_only(experiment, some))
    return kept, sentences


def _check_encoder(setting: Setting) -> None:
    if str(setting.encoder) == "cnn":
        as_any = _parse([*_shared(setting), "--encoder", "-"], setting)
        if as_any.tuning.encoder != "all":
            raise ExperimentError(
                "encoder cnn starts at random: it must be trained, with --config cnn_demo, or --override tuning.encoder=all"
            )


def _unsuited(variant: Variant, experiment: Experiment, tree: Taxonomy, setting: Setting) -> str:
    """Why a variant cannot run in this setting, or would show nothing; empty if it can."""
    if "taxonomy" in variant.overrides:
        its_own = f"it has a tree of its own ({variant.overrides['taxonomy']})"
        if setting.taxonomy is not None:
            return f"{its_own}, and --taxonomy {setting.taxonomy} was given"
        if experiment.built_in and tree.counts != PUBLISHED_TREE:
            return f"{its_own}, to be set beside the published one, and the shared tree is another"
    elif variant.depth is not None:
        if variant.depth > tree.depth:
            return f"it cuts the tree to {_levels(variant.depth)}, and there {'is' if tree.depth == 1 else 'are'} {tree.depth}"
        whole = replace(variant, depth=None)
        if variant.depth == tree.depth and any(_same_run(whole, other) for other in experiment.variants):
            return f"the tree has {_levels(tree.depth)} uncut, and that stands there already"
    head = make_job(variant, setting).config.head
    if str(setting.encoder) in FRESH and head.prototype_start == "text":
        return f"it needs the text tower of a pretrained HLIP, and the encoder is {setting.encoder}"
    if str(setting.encoder) == "cnn" and head.level_start == "encoder":
        return "it needs the blocks of a pretrained transformer, and the encoder is cnn"
    return ""


def _same_run(one: Variant, other: Variant) -> bool:
    return one.depth == other.depth and dict(one.overrides) == dict(other.overrides)


def as_published(found: Sequence[Experiment], tree: Taxonomy) -> tuple[list[Experiment], str]:
    """The experiments, those built in without their published numbers where the shared tree is not the paper's; and why, in a sentence."""
    if tree.counts == PUBLISHED_TREE:
        return list(found), ""
    shown = []
    for one in found:
        bare = tuple(replace(variant, published={}) for variant in one.variants)
        shown.append(replace(one, variants=bare, source="") if one.built_in else one)
    counts = [" / ".join(map(str, levels)) for levels in (PUBLISHED_TREE, tree.counts)]
    why = f"No published numbers stand beside these: they are of a tree of {counts[0]} classes, and this one has {counts[1]}."
    return shown, why if any(variant.published for one in found if one.built_in for variant in one.variants) else ""


@dataclass(frozen=True)
class Job:
    """One configuration to train, with every seed."""

    key: str
    """Folder name below OUT/runs: the kind of head and a digest of all that decides the result but the seed."""
    label: str
    arguments: tuple[str, ...]
    """For `finetune`, without --out and --seed."""
    config: FinetuneConfig
    tree: Taxonomy
    """What it is trained on, cut if the variant says so."""

    def folder(self, setting: Setting, seed: int) -> Path:
        """Where a run of it is."""
        return setting.out / "runs" / self.key / f"seed_{seed}"

    def write_tree(self, setting: Setting) -> None:
        """A tree that was cut gets a file, for the command line of fine-tuning to name; before the job's first run."""
        path = Path(self.config.taxonomy)
        if path.parent == setting.out / "taxonomy":
            path.parent.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(self.tree.to_dict(), sort_keys=False, allow_unicode=True)
            write_atomically(path, text.encode())


def jobs(found: Sequence[Experiment], setting: Setting) -> tuple[dict[str, Job], dict[tuple[str, str], str]]:
    """The distinct runs of some experiments.

    Returns:
        Key -> job, in the order of first use; and (experiment, variant) -> key.
    """
    distinct: dict[str, Job] = {}
    places: dict[tuple[str, str], str] = {}
    for experiment in found:
        for variant in experiment.variants:
            job = make_job(variant, setting)
            places[experiment.name, variant.name] = job.key
            distinct.setdefault(job.key, job)
    return distinct, places


def make_job(variant: Variant, setting: Setting) -> Job:
    """A variant's configuration, checked by fine-tuning's own parser."""
    arguments = [*_shared(setting), *_flags(variant.overrides)]
    config = _parse(arguments, setting)
    if config.cohort.folds and config.cohort.fold < 0:
        raise ExperimentError(f"cohort.fold {config.cohort.fold}: a variant is one run a seed; name one of the folds")
    whole, named = _tree(config.taxonomy), config.taxonomy
    tree = whole
    if variant.depth is not None and variant.depth != tree.depth:
        tree = tree.to_depth(variant.depth)
        config = replace(config, taxonomy=str(setting.out / "taxonomy" / f"{tree.name}.yaml"))
        arguments += ["--taxonomy", config.taxonomy]
    config = replace(config, tokens=setting.out / _tokens_name(config, tree, _parse([*_shared(setting)], setting)))
    arguments += ["--tokens", str(config.tokens)]
    decisive = {name: value for name, value in _unusual(config).items() if name not in OWN - {"steps"} and name != "taxonomy"}
    facts = [REVISION, decisive, tree.to_dict(), setting.data]
    cut_away = setting.labels & (_classes(whole) - _classes(tree))
    if cut_away and not config.cohort.labelled_in:
        config = replace(config, cohort=replace(config.cohort, labelled_in=named))
        arguments += ["--cohort.labelled_in", named]
        facts.append(whole.to_dict())
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return Job(f"{config.head.kind}-{digest[:10]}", _label(variant, tree), tuple(arguments), config, tree)


def _label(variant: Variant, tree: Taxonomy) -> str:
    return variant.label.replace("{levels}", _levels(tree.depth)).replace("{counts}", " / ".join(map(str, tree.counts)))


def _levels(depth: int) -> str:
    return f"{depth} level{'' if depth == 1 else 's'}"


def _classes(tree: Taxonomy) -> set[str]:
    return {name for level in tree.levels for name in level}


def _unusual(config: FinetuneConfig) -> dict[str, Any]:
    """What is not as by default: an option that is new tomorrow must not make today's runs another configuration's."""
    bare = plain(_parsed(("--store", "-", "--encoder", "-", "--out", "-", "--steps", "1")))

    def differing(given: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: differing(value, usual[name])
            if isinstance(value, Mapping) and isinstance(usual.get(name), Mapping)
            else value
            for name, value in given.items()
            if name not in usual or value != usual[name]
        }

    return differing(plain(config), bare)


def _shared(setting: Setting) -> Iterator[str]:
    yield from ("--config", setting.base, "--store", str(setting.store), "--encoder", str(setting.encoder))
    yield from ("--threads", str(setting.threads), "--trackers", "[]", "--patience", "0", "--seeds", "1")
    yield from ("--resume", "auto")
    if setting.steps is not None:
        yield from ("--steps", str(setting.steps))
    if setting.taxonomy is not None:
        yield from ("--taxonomy", setting.taxonomy)
    yield from _flags(setting.overrides)


def _flags(overrides: Mapping[str, Any]) -> list[str]:
    return [text for key, value in overrides.items() for text in (f"--{key}", "null" if value is None else str(value))]


def _parse(arguments: Sequence[str], setting: Setting) -> FinetuneConfig:
    return _parsed((*arguments, "--out", str(setting.out)))


def _tokens_name(config: FinetuneConfig, tree: Taxonomy, shared: FinetuneConfig) -> str:
    """The folder of a variant's tokens: `tokens`, and one of its own where it reads other studies, or reads them otherwise: each folder is
    filled before the first run, and where that fails it costs its own variants alone."""
    decisive = [_read_by(config, tree), _read_by(shared, _tree(shared.taxonomy))]
    if decisive[0] == decisive[1]:
        return "tokens"
    return f"tokens-{hashlib.sha256(decisive[0].encode()).hexdigest()[:10]}"


def _read_by(config: FinetuneConfig, tree: Taxonomy) -> str:
    """All that decides which tokens a configuration reads, as text; folds are parted by the classes of the tree."""
    read = [config.head.blocks, config.precision, config.image, config.cnn, replace(config.cohort, balance=0.0)]
    return json.dumps([plain(part) for part in read] + ([tree.to_dict()] if config.cohort.folds else []), sort_keys=True)


@cache  # reading one takes as long as all else of a plan
def _tree(taxonomy: str) -> Taxonomy:
    return Taxonomy.load(taxonomy)


@cache  # a parse takes a tenth of a second, and plan, training and page ask for the same ones
def _parsed(arguments: tuple[str, ...]) -> FinetuneConfig:
    return parse_config(FinetuneConfig, command="finetune", description="A variant of an experiment.", argv=arguments)

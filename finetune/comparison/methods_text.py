"""How the numbers were made, in sentences that can go into a paper; everything from the comparison's own settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.comparison.words import external_of, joined, lower_label, method_label, others_of, reference_of
from hp2l.comparison.compare import Comparison
from hp2l.comparison.slices import LEAST_CASES, LEAST_STUDIES

REFERENCES = {
    "Clopper": "Clopper, Pearson, Biometrika 26, 1934.",
    "DeLong": "DeLong et al., Biometrics 44, 1988.",
    "Obuchowski": "Obuchowski, Biometrics 53, 1997.",
    "Holm": "Holm, Scandinavian Journal of Statistics 6, 1979.",
    "temperature scaling": "Guo et al., ICML 2017.",
    "Platt": "Platt, Advances in Large Margin Classifiers, 1999.",
    "isotonic": "Zadrozny, Elkan, KDD 2002.",
    "Brier": "Brier, Monthly Weather Review 78, 1950.",
    "Decision curves": "Vickers, Elkin, Medical Decision Making 26, 2006.",
    "Hierarchical precision": "Kiritchenko, Matwin, Famili, BioLINK, 2005.",
}
"""What the text names -> the work."""
TUNED = {
    "frozen": "the frozen encoder",
    "last": "an encoder whose last blocks were trained",
    "all": "a fully trained encoder",
    "lora": "an encoder with trained low-rank additions",
}
PARENT_WORDS = {
    "own": "their own prompts",
    "children": "their highest child",
    "scaled_children": "their highest child after Platt scaling on validation labels",
    "any_child": "the chance of any child, after Platt scaling on validation labels",
}
"""How inner classes are answered (`finetune.comparison.zero_shot.PARENTS`), after `by`."""


def methods_paragraphs(comparison: Comparison) -> dict[str, str]:
    """Heading -> how the numbers were made, in sentences that can go into a paper; the works they name at the end."""
    found = {
        "Patients": _cohort(comparison),
        "Models": models(comparison.get("provenance") or {}),
        "Metrics": _metrics(comparison),
        "Intervals and tests": _intervals(comparison),
        "Probabilities": _calibration(comparison),
        "Tree": _tree(comparison),
        "Groups, sequences, labels": _groups(comparison),
    }
    text = " ".join(found.values())
    found["References"] = " ".join(cited for name, cited in REFERENCES.items() if name in text)
    return {heading: text for heading, text in found.items() if text}


def _cohort(comparison: Comparison) -> str:
    sizes = ", ".join(
        f"{split} {n['studies']} studies of {n['patients']} patients" for split, n in comparison["cohort"]["splits"].items()
    )
    names = joined([lower_label(method) for method in comparison["methods"]])
    text = f"Diagnoses by {names} were {'compared on the same studies' if others_of(comparison) else 'measured'} ({sizes})."
    if len(others_of(comparison)) > 1:
        text += (
            f" Differences are to {lower_label(reference_of(comparison))}; they are not corrected for the number of methods."
        )
    for name in comparison["methods"]:
        if external := external_of(comparison, name):
            text += f" The test studies of {lower_label(name)} are an external cohort ({external}); validation studies are the own cohort's."
    return text


def _metrics(comparison: Comparison) -> str:
    settings = comparison["settings"]
    normal, specificity = settings["normal_class"], settings.get("specificity")
    answered = settings.get("validation_studies", 1) > 0
    text = "All numbers come from the test split. "
    if answered:
        text = "For each class and method the decision threshold is the midpoint between two validation scores of highest balanced "
        text += "accuracy (the lowest of equals), "
        text += "(sensitivity + specificity) / 2, on the validation split; all numbers come from the test split. "
    text += "AUC is the area under the ROC curve, ties counted as half. Macro values are unweighted means over the classes "
    text += f"of a level{f', without the class {normal!r}' if normal else ''} and without classes that have fewer than "
    text += f"{settings['min_positives']} positive or negative test studies."
    if answered:
        text += " F1 is that of the same decisions."
    if specificity and answered:
        text += (
            f" Sensitivity at {100 * specificity:.0f} % specificity uses the lowest threshold that spares that share of the "
        )
        text += "validation split's negatives; the specificity reached on the test split is given beside it."
    return text


def _intervals(comparison: Comparison) -> str:
    settings = comparison["settings"]
    text = f"95 % intervals are percentile intervals of {settings['resamples']} bootstrap resamples of patients, the same "
    text += "for all methods, with thresholds held fixed; a class without a positive in a resample is left out of the macro "
    text += "mean of that resample. A share of cases that is 0 or 1 has Clopper and Pearson's interval."
    if "average_precision_interval" in settings:
        text += " Average precision gains from positives that a resample repeats, so its resamples were moved until their mean "
        text += "equals the value itself, those of its differences likewise."
    if not others_of(comparison):
        return text
    text += " P-values are two-sided: of paired differences of macro numbers the difference over its standard deviation in the same resamples, "
    text += "taken as normal, which is slightly too sure far out (2.0 % of null simulations lie below 0.01); "
    text += "of single classes 2 min(P(d ≤ 0), P(d ≥ 0)) of the resamples, Holm-corrected over all classes of a level."
    if "delong" in settings:
        text += " Differences in a class's AUC were tested a second time by DeLong's method, with studies clustered by patient "
        text += "(Obuchowski), Holm-corrected in the same way; the classes that gain or lose are counted by this test, "
        text += "whose p-values no number of resamples bounds."
    if len(others_of(comparison)) > 1:
        text += " Every two methods' difference in macro AUC is tested too, Holm-corrected over the pairs of a level."
    return text


def _calibration(comparison: Comparison) -> str:
    text = ""
    if any((comparison.get("calibration") or {}).get("levels", {}).get("1", {}).values()):
        bins = comparison["calibration"]["bins"]
        text += "Scores were calibrated a class at a time by temperature scaling, by Platt scaling and by isotonic regression, fitted on the "
        text += f"validation split; expected calibration error ({bins} bins of equal width, and of equal mass) is given without an interval, "
        text += "because resampling biases it upwards; Brier skill is 1 - Brier / Brier of the classes' validation prevalences."
        text += " Decision curves pool all pairs of a study and a class that enter the macro mean of a level, after Platt "
        text += "scaling; net benefit is (true positives − false positives × t / (1 − t)) / pairs at threshold t, with pointwise bands, "  # noqa: RUF001
        text += (
            "held against treating all, treating none, and treating all for the classes whose validation prevalence reaches t."
        )
    return text.strip()


def _tree(comparison: Comparison) -> str:
    if not comparison.get("tree"):
        return ""
    text, scaled = "", ""
    if comparison["settings"].get("validation_studies", 1):
        text = "Hierarchical precision, recall and F1 count every called and every true class together with all its ancestors. "
        scaled = " after Platt scaling, as classes have scales of their own,"
    text += f"A study counts as wrong at a level if its highest-scoring class there{scaled} is not among its labels; recovery is the share of "
    text += "studies wrong at level 1 that is right at the last level, without studies whose level-1 label itself stands at the last level, "
    return text + "such as normal."


def _groups(comparison: Comparison) -> str:
    text = ""
    if comparison.get("slices"):
        text += f"Groups of patients with at least {LEAST_STUDIES} test studies are shown, over the classes of the macro mean with at least "
        text += f"{LEAST_CASES} positives and negatives in the group; they are not adjusted for one another. P-values of "
        text += "their differences take the bootstrap's standard error and are Holm-corrected over the groups."
    if comparison.get("robustness"):
        text += (
            " For missing sequences, each sequence was removed in turn from the test studies that have it beside others, and "
        )
        text += "the models were asked again; p-values are Holm-corrected over the sequences."
    if comparison.get("efficiency"):
        text += (
            " For label efficiency, the fine-tuned model was trained on growing shares of the labelled patients, once each; "
        )
        text += "it counts as above zero-shot where the interval of the paired difference lies above zero, and the crossing is interpolated "
        text += "on a logarithmic axis, its interval from resamples of test patients."
    return text.strip()


def models(provenance: Mapping[str, Any]) -> str:
    """What was trained on what, which of it the validation split chose, and with which software; empty where the provenance does not say."""
    parts: list[str] = []
    versions: dict[str, str] = {}
    for name, entry in provenance.items():
        entry = entry if isinstance(entry, Mapping) else {}
        versions |= entry.get("versions") or {}
        if told := _trained(name, entry):
            parts.append(told)
        if "mean_of" in entry and "scaling" in entry:
            names = joined([lower_label(own) for own in entry["mean_of"]])
            parts.append(f"{method_label(name)} is the mean score of {names}, {entry['scaling']}.")
        chosen, facts = entry.get("prompts"), entry.get("facts")
        if isinstance(chosen, Mapping) and "parents" in chosen:
            how = "was fixed beforehand"
            if "candidates" in chosen:
                how = f"is the best of {chosen['candidates']} by mean validation AUC over the levels"
            parts.append(f"The setting of {lower_label(name)} {how}: {setting_words(chosen)}.")
        if entry.get("kind") == "fine_tuned" and isinstance(facts, Mapping) and "step" in facts:
            parts.append(f"The checkpoint of {lower_label(name)} is the one of step {facts['step']}, the best on validation.")
    if versions:
        parts.append(f"Software: {', '.join(f'{name} {number}' for name, number in versions.items())}.")
    return " ".join(parts)


def _trained(name: str, entry: Mapping[str, Any]) -> str:
    """On how many studies a method's model was trained, as far as its checkpoint says."""
    facts = entry.get("facts")
    if not isinstance(facts, Mapping) or not facts.get("studies"):
        return ""
    studies = f"{facts['studies']:,} training studies"
    if entry.get("kind") == "zero_shot":
        patients = (facts.get("data") or {}).get("patients")
        of = f" of {patients:,} patients" if patients else ""
        return f"{method_label(name)}: a language-image model pretrained on the scans and reports of {studies}{of}, without their labels."
    share = f" ({100 * facts['fraction']:.0f} % of the labelled patients)" if facts.get("fraction", 1.0) < 1 else ""
    tuned = TUNED.get(str(facts.get("tuned")), "an encoder")
    head = f"the head {facts['head']} on " if facts.get("head") else ""
    return f"{method_label(name)}: {head}{tuned}, trained on {studies} with labels{share}."


def setting_words(setting: Mapping[str, Any]) -> str:
    """A zero-shot setting in words."""
    kind = "held against the phrase of a normal study" if setting.get("contrast") else "scored by plain similarity"
    words = "with synonyms" if setting.get("synonyms") else "without synonyms"
    parents = PARENT_WORDS.get(str(setting.get("parents")), str(setting.get("parents")))
    return f"templates '{setting.get('prompts')}' {words}, {kind}, inner classes by {parents}"

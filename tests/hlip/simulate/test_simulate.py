"""The simulated cohort: files, determinism, agreement of voxels, masks, affines and words."""

from __future__ import annotations

import hashlib
import re
import sys

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from hlip.reports import sections, split_sentences
from hlip.simulate import CLASSES, SimulateError, phrases, render_signatures, simulate_cohort
from hlip.simulate import cohort as cohort_module
from hlip.simulate import gallery as gallery_module
from hlip.simulate.anatomy import build_template
from hlip.simulate.build import build_study, build_subject, sequence_image, study_protocols
from hlip.simulate.contrast import SEQUENCES
from hlip.simulate.lesions import BY_NAME
from hlip.simulate.plan import StudyPlan, plan_cohort
from hlip.simulate.scanner import write_nifti
from hlip.study import read_manifest

pytest.importorskip("nilearn", reason="the tissue maps come with nilearn (extra `simulate`)")


@pytest.fixture(scope="module")
def template():
    return build_template()


@pytest.fixture(autouse=True)
def _template_once(template, monkeypatch):
    for module in (cohort_module, gallery_module):
        monkeypatch.setattr(module, "build_template", lambda: template)


@pytest.fixture(scope="module")
def folder(template, tmp_path_factory):
    """A cohort of ten studies."""
    out = tmp_path_factory.mktemp("cohort") / "ten"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cohort_module, "build_template", lambda: template)
        simulate_cohort(out, 10, 7, workers=1, progress=False)
    return out


def _digests(out):
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in out.rglob("*") if path.is_file()
    }


def _plan(labels, index=0, patient=0):
    return StudyPlan(index, patient, 0, tuple(labels), "train")


# --------------------------------------------------------------------------- files


def test_manifest_lists_scans_that_open_and_masks_apart(folder):
    studies = read_manifest(folder / "manifest.jsonl")
    assert [study.study_id for study in studies] == [f"sim{number:05d}" for number in range(10)]
    for study in studies:
        assert set(study.labels) <= set(CLASSES)
        assert study.split in ("train", "val", "test")
        assert {"sex", "age", "vendor", "field_strength", "masks", "lesions"} <= set(study.extra)
        listed = {scan.path for scan in study.scans}
        for scan in study.scans:
            image = nib.load(scan.path)
            assert image.get_data_dtype() == np.int16
            assert scan.sequence in SEQUENCES
            spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
            assert 3.7 < spacing[2] < 7.1  # thick slices, the largest spacing last
            assert spacing[2] == spacing.max()
        mask = nib.load(folder / study.extra["masks"][0])
        assert folder / study.extra["masks"][0] not in listed
        codes = set(np.unique(np.asarray(mask.dataobj))) - {0}
        assert codes == {BY_NAME[name].code for name in study.labels if name != "normal"}
    assert not list(folder.rglob("*.partial*"))
    assert not (folder / ".anatomy.npz").exists()


def test_same_bytes_whatever_the_number_of_workers(folder, tmp_path):
    simulate_cohort(tmp_path / "ten", 10, 7, workers=2, progress=False)
    assert _digests(tmp_path / "ten") == _digests(folder)


def test_a_second_call_writes_only_what_is_missing(folder):
    before = _digests(folder)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.nii.gz")}
    gone = folder / "studies" / "sim00004"
    for path in gone.iterdir():
        path.unlink()
    simulate_cohort(folder, 10, 7, workers=1, progress=False)
    assert _digests(folder) == before
    assert all(path.stat().st_mtime_ns == when for path, when in times.items() if path.parent != gone)


@pytest.mark.parametrize(("studies", "seed"), [(10, 8), (11, 7)])
def test_another_cohort_in_the_same_folder_is_refused(folder, studies, seed):
    with pytest.raises(SimulateError, match="choose another folder"):
        simulate_cohort(folder, studies, seed, progress=False)


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SimulateError, match="not empty"):
        simulate_cohort(tmp_path, 2, 0, progress=False)
    with pytest.raises(SimulateError, match="at least 1"):
        simulate_cohort(tmp_path / "new", 0, 0, progress=False)


def test_missing_nilearn_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with pytest.raises(SimulateError, match=r"pip install .*simulate"):
        build_template()


# --------------------------------------------------------------------------- images


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "normal"])
def test_each_class_is_visible_in_a_usual_sequence(template, name):
    """Mean difference to the same head without the lesion, inside the mask, over typical noise."""
    best = []
    for patient in range(3):
        ill = build_subject(template, (name,), 3, patient, 0, 60)
        well = build_subject(template, ("normal",), 3, patient, 0, 60)
        inside = ill.mask == BY_NAME[name].code
        contrast = [
            np.abs(sequence_image(ill, s, np.random.default_rng(0)) - sequence_image(well, s, np.random.default_rng(0)))[inside]
            for s in SEQUENCES
        ]
        best.append(max(part.mean() for part in contrast) / 0.03)
    # mild cognitive impairment overlaps with the hippocampi of healthy ageing, as it does in life
    assert min(best) > (0.5 if name == "mild cognitive impairment" else 4)


def test_signatures_follow_the_textbook(template):
    """Sign of the lesion's signal against the brain around it, where radiologists would disagree with anything else."""
    expected = {
        "acute hemorrhage": {"T2": -1, "SWI": -1},
        "subacute hemorrhage": {"T1": 1, "FLAIR": 1},
        "chronic hemorrhage": {"SWI": -1, "FLAIR": -1},
        "cerebral microbleeds": {"SWI": -1},
        "acute infarction": {"DWI": 1, "ADC": -1, "FLAIR": 1, "T2": 1},
        "chronic infarction": {"T1": -1, "T2": 1, "ADC": 1, "DWI": -1},
        "white matter hyperintensity": {"FLAIR": 1, "T2": 1, "T1": -1},
        "arachnoid cyst": {"FLAIR": -1, "T2": 1, "DWI": -1},
    }
    for name, signs in expected.items():
        subject = build_subject(template, (name,), 5, 1, 0, 60)
        inside = subject.mask > 0
        brain = (subject.tissue.gm + subject.tissue.wm) > 0.8
        near = ndimage.binary_dilation(inside, iterations=8) & ~ndimage.binary_dilation(inside, iterations=5) & brain
        for sequence, sign in signs.items():
            image = sequence_image(subject, sequence, np.random.default_rng(0))
            assert sign * (image[inside].mean() - image[near].mean()) > 0.05, (name, sequence)


def test_scans_of_any_orientation_agree_with_the_mask_in_scanner_space(template):
    """The infarct is the bright part of DWI exactly where the mask, carried through both affines, says so."""
    seen = set()
    for index in range(40):
        sequences = {protocol.sequence for protocol in study_protocols(2, index)[2]}
        if "DWI" not in sequences or len(seen) > 2:
            continue
        study = build_study(template, _plan(["acute infarction"], index, index), seed=2)
        scan = next(scan for scan in study.scans if scan.sequence == "DWI")
        seen.add(nib.aff2axcodes(scan.affine))
        to_mask = np.linalg.inv(study.mask_affine) @ scan.affine
        inside = ndimage.affine_transform(study.mask == 5, to_mask[:3, :3], to_mask[:3, 3], scan.data.shape, order=0)
        bright = scan.data > np.percentile(scan.data[inside], 25)
        # The infarct is the brightest thing on DWI: bright voxels lie in it, and in its mirror image they do not.
        assert (bright & inside).sum() / max(bright.sum(), 1) > 0.7
    assert len(seen) > 2


def test_side_words_are_the_patients(template):
    """ "left" in the report is x < 0 in scanner space, for every one-sided class."""
    told = 0
    for patient, name in enumerate(["acute infarction", "glioma", "meningioma", "acute hemorrhage", "arachnoid cyst"] * 3):
        study = build_study(template, _plan([name], patient, patient), seed=11)
        words = set(re.findall(r"\b(left|right)\b", sections(study.report)["findings"]))
        if len(words) != 1:
            continue
        centre = study.mask_affine @ [*np.argwhere(study.mask > 0).mean(0), 1]
        middle = study.mask_affine @ [*((np.array(study.mask.shape) - 1) / 2), 1]
        assert ("left" if centre[0] < middle[0] else "right") in words, (name, study.report)
        told += 1
    assert told > 8


def test_a_follow_up_finds_the_lesion_in_its_place(template):
    first = build_subject(template, ("acute infarction",), 0, 5, 0, 60)
    second = build_subject(template, ("chronic infarction",), 0, 5, 1, 61)
    one, two = (np.argwhere(subject.mask > 0).mean(0) for subject in (first, second))
    assert np.linalg.norm(one - two) * 3 < 8  # mm


def test_file_size_and_geometry_do_not_depend_on_the_label(template, tmp_path):
    """The same study number with and without disease: equal shapes and affines, compressed sizes within 3 %."""
    sizes = {}
    for name in ("normal", "acute hemorrhage", "glioma", "porencephaly", "Alzheimer's disease"):
        study = build_study(template, _plan([name], 1, 1), seed=4)
        for number, scan in enumerate(study.scans):
            write_nifti(scan.data, scan.affine, tmp_path / "scan.nii.gz")
            row = ((tmp_path / "scan.nii.gz").stat().st_size, scan.data.shape, scan.affine.round(4).tolist())
            sizes.setdefault(number, []).append(row)
    for rows in sizes.values():
        lengths = [row[0] for row in rows]
        assert max(lengths) / min(lengths) < 1.03
        assert all(row[1:] == rows[0][1:] for row in rows)


def test_gallery_draws_every_class(tmp_path):
    path = render_signatures(tmp_path / "signatures.png")
    assert path.stat().st_size > 100_000


# --------------------------------------------------------------------------- reports


@pytest.fixture(scope="module")
def reports(template):
    """(labels, report) of 80 studies, without imaging them: one template head serves all."""
    from hlip.simulate.reports import write_report

    out = []
    for plan in plan_cohort(80, seed=1):
        subject = build_subject(template, plan.labels, 1, plan.patient, plan.visit, 60)
        rng = np.random.default_rng(plan.index)
        text = write_report(rng, subject.lesions, ["T1", "DWI"], scale=1.0, field_strength=3, visit=plan.visit, evolved=False)
        out.append((plan.labels, text))
    return out


def test_reports_have_sections_and_no_open_slot(reports):
    for _, text in reports:
        assert {"findings", "impression"} <= set(sections(text))
        assert not re.search(r"[{}]|  |\bone lesions\b|\bone in number\b", text), text
    assert sum("technique" in sections(text) for _, text in reports) > 40
    assert len({text for _, text in reports}) == len(reports)


def test_reports_never_deny_what_is_labelled(reports):
    for labels, text in reports:
        for statement, excluded in (*phrases.NEGATIONS, *phrases.NORMAL_STATEMENTS):
            assert not (statement in text and set(excluded) & set(labels)), (labels, statement)


def test_half_of_the_sentences_of_an_abnormal_study_are_informative(reports):
    routine = {text for text, _ in (*phrases.NEGATIONS, *phrases.NORMAL_STATEMENTS)}
    routine |= {*phrases.FIRST, *phrases.AGAIN, *phrases.HEDGES, *phrases.EVOLVED, *phrases.STABLE}
    told = total = 0
    for labels, text in reports:
        if labels == ("normal",):
            continue
        positive = split_sentences(
            "\n\n".join(f"{title}: {part}" for title, part in sections(text).items() if title != "technique")
        )
        told += sum(sentence not in routine for sentence in positive)
        total += len(split_sentences(text))
    assert 0.42 < told / total < 0.65


def test_impressions_name_every_label(reports):
    stem = {
        "acute hemorrhage": "acute.*(hemorrhage|hematoma|bleed)",
        "acute infarction": "acute.*(infarct|stroke)",
        "glioma": "gliom|glioblastoma",
        "meningioma": "meningioma",
        "metastasis": "metasta",
        "Alzheimer's disease": "alzheimer",
        "cerebral microbleeds": "micro(bleed|hemorrhage)",
        "normal": "normal|no significant|unremarkable",
    }
    for labels, text in reports:
        impression = sections(text)["impression"].lower()
        for name in set(labels) & set(stem):
            assert re.search(stem[name], impression), (name, impression)
        assert len(impression.split(".")) > len(labels)

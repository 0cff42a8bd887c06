"""Every reason why something is left out: what it means, and what can be done."""

from __future__ import annotations

WORDS = {
    # of what is no scan to read
    "burned_in_text": "text is drawn into the images, it may show a name; export the images without it",
    "calibration": "a calibration or reference measurement, nothing to read",
    "colour": "colour images; export the grey ones they were made of",
    "derived_map": "a map computed from other images; nothing to do, what it was made of is looked at by itself",
    "dixon_part": "the fat part of a Dixon scan, or its opposed-phase part where the study has another; nothing to do where its water or "
    "in-phase images are taken, else export them",
    "document": "a document, not an image",
    "dose_report": "a dose report, not a scan",
    "key_objects": "a list of key images, not an image",
    "localizer": "a localizer; if it is a scan, rename its SeriesDescription",
    "not_an_image": "an object that holds no image",
    "other_modality": "neither CT nor MR; only these are imported",
    "phase": "phase, real or imaginary images; nothing to do, the magnitude is taken",
    "presentation_state": "a way to show images, not an image",
    "projection": "a projection (MIP, volume rendering); export the slices it was made of",
    "radiotherapy": "an object of radiotherapy, not a scan",
    "reformat": "cut anew from images that the study has; nothing to do, the original is taken",
    "screenshot": "a screenshot; it may show a name",
    "secondary_capture": "a secondary capture; it may show a name; export the original images",
    "segmentation": "a segmentation, not a scan",
    "sharp_kernel": "a bone or lung kernel of a range that the study has in a soft one; nothing to do, the soft one is taken",
    "spectroscopy": "spectroscopy, not a scan",
    "structured_report": "a structured report, not a scan",
    "subtraction": "a difference of two scans; nothing to do, both are looked at by themselves",
    "time_series": "function, perfusion or another series over time, by its name or by too many images at each place; export single time "
    "points, named by what they show, to use it",
    # of scans that are not whole
    "b_values_unclear": "its b-values in the headers and in the images are not the same; export it as enhanced or single-slice DICOM",
    "converter_failed": "dcm2niix makes no volume of it; try the series by hand with dcm2niix, or export it anew, uncompressed",
    "converter_killed": "the system ended dcm2niix, probably for want of memory; run it again with fewer --workers",
    "converter_timeout": "dcm2niix took too long; run it again with fewer --workers, or look for a damaged file in the series",
    "damaged": "too many of its files are damaged or cut short; copy them again",
    "geometry_mismatch": "images and headers do not tell the same place; export it anew from the archive, not from a viewer",
    "missing_slices": "slices are missing, too many to fill in, or stacks of several spacings lie in one series; export the whole series "
    "again, each stack as a series of its own",
    "no_geometry": "its headers do not tell where the slices lie; export it from the archive, not from a viewer",
    "no_usable_series": "none of its series can be used, each is listed with its own reason",
    "several_patients": "its images name several patients; correct PatientID, or separate the studies",
    "shifted_slices": "its slices are shifted against each other, as of a curved reformat; export the original series",
    "too_few_slices": "too few slices for a volume; if there should be more, export the whole series again",
    "too_large": "too large for the memory; export it in a larger slice thickness or with fewer time points",
    "uneven_slices": "the distances between its slices vary; export the whole series again, or another reconstruction of it",
    "unexpected": "a fault of this program; please report it",
}
"""By the codes of the tables."""


def told_why(reason: str, notes: str) -> str:
    """One line for a person: the words of a reason, then what was found."""
    return ". ".join(filter(None, (WORDS.get(reason, ""), notes)))

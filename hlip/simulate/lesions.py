"""Signatures: how each class of the default taxonomy looks, one row a class.

A row gives relative signals (same scale and order as `contrast.WHITE_MATTER` and its neighbours), so the table can
be read against healthy tissue. Parts of a lesion, from the inside out: `centre` (necrosis; large lesions only),
`core`, `rim` (the outer `rim_mm` of the lesion) and `halo` (edema or gliosis within `halo_mm` around it).
`push` is mass effect as a share of the lesion's radius (negative: volume loss). `bloom_mm` is how far the signal
void of blood products spreads beyond the lesion on SWI.

The table simplifies: stages of blood are a continuum, tumours overlap, and no row replaces a radiologist. It is for
checking software, not for learning radiology.
"""

from __future__ import annotations

from dataclasses import dataclass

from hlip.simulate.contrast import FLUID, GREY_MATTER, WHITE_MATTER, Signal


@dataclass(frozen=True)
class Signature:
    """The appearance of one class."""

    name: str
    code: int
    """Integer in the lesion masks."""
    kind: str
    """Geometry, see `shapes.PLACERS`."""
    size_mm: tuple[float, float] = (0, 0)
    """Smallest and largest diameter, mm."""
    count: tuple[int, int] = (1, 1)
    places: tuple[str, ...] = ()
    core: Signal | None = None
    centre: Signal | None = None
    rim: Signal | None = None
    rim_mm: tuple[float, float] = (0, 0)
    halo: Signal | None = None
    halo_mm: tuple[float, float] = (0, 0)
    push: tuple[float, float] = (0, 0)
    bloom_mm: float = 0
    loss: tuple[float, float] = (0, 0)
    """Share of hippocampal tissue turned into fluid."""
    source: str = ""


#                  T1    T2   FLAIR  DWI   ADC   SWI
EDEMA = Signal(0.66, 0.92, 1.08, 0.62, 0.52, 0.80)
GLIOSIS = Signal(0.62, 0.88, 1.12, 0.58, 0.46, 0.78)
HEMOSIDERIN = Signal(0.50, 0.12, 0.20, 0.12, 0.10, 0.04)

_BLEEDING_PLACES = (
    "basal ganglia", "basal ganglia", "thalamus", "frontal lobe", "parietal lobe", "temporal lobe",
    "occipital lobe", "cerebellar hemisphere",
)  # fmt: skip
_DEEP = ("basal ganglia", "thalamus", "internal capsule", "corona radiata", "centrum semiovale", "pons")

SIGNATURES: tuple[Signature, ...] = (
    Signature("normal", 0, "none"),
    Signature(
        "acute hemorrhage", 1, "hematoma", size_mm=(20, 56), places=_BLEEDING_PLACES,
        core=Signal(0.64, 0.16, 0.34, 0.20, 0.14, 0.08),
        halo=EDEMA, halo_mm=(6, 13), push=(0.15, 0.35), bloom_mm=2.5,
        source="Deoxyhaemoglobin, 1-3 days: T1 iso/hypo, T2 and T2* markedly dark, growing oedema. "
               "Bradley, Radiology 189:15 (1993)",
    ),
    Signature(
        "subacute hemorrhage", 2, "hematoma", size_mm=(18, 52), places=_BLEEDING_PLACES,
        core=Signal(1.50, 1.05, 1.20, 1.10, 0.30, 0.62), rim=HEMOSIDERIN._replace(t1=1.1, flair=0.6, t2=0.35), rim_mm=(2, 3),
        halo=EDEMA, halo_mm=(3, 8), push=(0.08, 0.22), bloom_mm=1.5,
        source="Extracellular methaemoglobin, 1-4 weeks: T1 and T2 bright, dark margin on T2*. "
               "Bradley, Radiology 189:15 (1993)",
    ),
    Signature(
        "chronic hemorrhage", 3, "hematoma", size_mm=(16, 42), places=_BLEEDING_PLACES,
        core=FLUID._replace(t1=0.34, flair=0.28, swi=0.50), rim=HEMOSIDERIN, rim_mm=(4, 6),
        push=(-0.25, -0.1), bloom_mm=4,
        source="Fluid-filled cleft with a haemosiderin rim dark on T2 and blooming on T2*, no oedema. "
               "Bradley, Radiology 189:15 (1993); Osborn's Brain, 2nd ed., ch. 5",
    ),
    Signature(
        "cerebral microbleeds", 4, "dots", size_mm=(6, 10), count=(8, 36),
        core=Signal(0.92, 0.38, 0.50, 0.38, 0.24, 0.02),
        source="Round voids of 2-5 (up to 10) mm on T2*/SWI, enlarged there by blooming, unseen or nearly so on T1/T2; "
               "lobar (amyloid) or deep (hypertensive). Greenberg et al., Lancet Neurol 8:165 (2009)",
    ),
    Signature(
        "acute infarction", 5, "wedge", size_mm=(24, 70),
        core=Signal(0.66, 0.80, 0.96, 1.45, 0.13, 0.74), push=(0.02, 0.08),
        source="Cytotoxic oedema: DWI bright, ADC dark, T2/FLAIR mildly bright, arterial territory. "
               "Schaefer et al., Radiology 217:331 (2000)",
    ),
    Signature(
        "chronic infarction", 6, "wedge", size_mm=(24, 70),
        core=FLUID._replace(t1=0.30, flair=0.22), rim=GLIOSIS, rim_mm=(5, 8), push=(-0.3, -0.15),
        source="Encephalomalacia of fluid signal, gliotic margin on FLAIR, volume loss with ex vacuo widening. "
               "Osborn's Brain, 2nd ed., ch. 8",
    ),
    Signature(
        "lacunar infarction", 7, "cavities", size_mm=(7, 15), count=(2, 6), places=_DEEP,
        core=FLUID._replace(t1=0.28, flair=0.20), halo=GLIOSIS, halo_mm=(3, 5),
        source="Round or ovoid subcortical cavity of 3-15 mm, fluid signal, FLAIR-bright rim. "
               "Wardlaw et al. (STRIVE), Lancet Neurol 12:822 (2013)",
    ),
    Signature(
        "white matter hyperintensity", 8, "white matter",
        core=Signal(0.72, 0.86, 1.14, 0.62, 0.42, 0.78),
        source="FLAIR/T2-bright, symmetric: caps and bands about the ventricles, punctate to confluent deep foci. "
               "Fazekas et al., AJR 149:351 (1987); STRIVE (2013)",
    ),
    Signature(
        "glioma", 9, "mass", size_mm=(28, 66),
        places=("frontal lobe", "frontal lobe", "temporal lobe", "parietal lobe", "occipital lobe"),
        core=Signal(0.60, 0.86, 0.98, 0.84, 0.40, 0.66), centre=Signal(0.36, 1.08, 0.60, 0.28, 0.85, 0.70),
        halo=EDEMA, halo_mm=(10, 24), push=(0.2, 0.4),
        source="Infiltrating, irregular, T2/FLAIR bright, necrotic centre, finger-like oedema along white matter. "
               "Osborn's Brain, 2nd ed., ch. 17; Louis et al., Neuro-Oncology 23:1231 (2021)",
    ),
    Signature(
        "meningioma", 10, "dural", size_mm=(22, 56),
        core=Signal(0.69, 0.70, 0.84, 0.82, 0.22, 0.58), rim=FLUID, rim_mm=(2, 3),
        halo=EDEMA, halo_mm=(0, 12), push=(0.55, 0.75),
        source="Extra-axial, dural base, sharp; iso to grey matter on T1, iso to mildly bright on T2, fluid cleft, "
               "low ADC. Watts et al., Insights Imaging 5:113 (2014)",
    ),
    Signature(
        "metastasis", 11, "nodules", size_mm=(10, 32), count=(2, 7),
        core=Signal(0.58, 0.70, 0.86, 0.78, 0.30, 0.50), centre=Signal(0.38, 1.02, 0.66, 0.30, 0.78, 0.66),
        halo=EDEMA, halo_mm=(8, 18), push=(0.15, 0.35),
        source="Round, often several, at the grey-white junction, oedema out of proportion, necrosis when large. "
               "Osborn's Brain, 2nd ed., ch. 27; Fink & Fink, Surg Neurol Int 4:S209 (2013)",
    ),
    Signature(
        "Alzheimer's disease", 12, "atrophy", loss=(0.35, 0.9),
        source="Medial temporal atrophy (MTA 3-4), temporal-horn and ventricular widening, sulcal widening. "
               "Scheltens et al., JNNP 55:967 (1992).",
    ),
    Signature(
        "mild cognitive impairment", 13, "atrophy", loss=(0.25, 0.55),
        source="Hippocampal loss between healthy ageing and Alzheimer's (MTA 1-2), little else. "
               "Jack et al., Neurology 52:1397 (1999).",
    ),
    Signature(
        "porencephaly", 14, "cleft", size_mm=(24, 60), core=FLUID, push=(-0.1, 0.05),
        source="Fluid cavity through the cerebral mantle, from ventricle towards surface, lined by white matter, no "
               "gliosis. Barkovich & Raybaud, Pediatric Neuroimaging, 6th ed., ch. 4",
    ),
    Signature(
        "arachnoid cyst", 15, "cyst", size_mm=(30, 66), core=FLUID, push=(0.5, 0.75),
        source="Extra-axial, sharp, fluid on every sequence, displaces brain; half in the middle cranial fossa, more on "
               "the left. Osborn & Preece, Radiology 239:650 (2006)",
    ),
)  # fmt: skip
"""Ranges of wedge sizes are lengths along the wedge. Parts not given keep the healthy signal."""

BY_NAME = {signature.name: signature for signature in SIGNATURES}
CLASSES = tuple(signature.name for signature in SIGNATURES)

__all__ = ["BY_NAME", "CLASSES", "GREY_MATTER", "SIGNATURES", "WHITE_MATTER", "Signature"]

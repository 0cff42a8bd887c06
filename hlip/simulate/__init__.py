"""The simulated cohort: brain MRI studies with reports, because no one can ship patients.

`simulate_cohort` writes real NIfTI files, reports, labels, lesion masks and a manifest; `render_signatures` shows how
each class looks. The table of signatures is in `lesions.py`.
"""

from __future__ import annotations

from hlip.simulate.anatomy import SimulateError
from hlip.simulate.cohort import simulate_cohort
from hlip.simulate.gallery import render_signatures
from hlip.simulate.lesions import CLASSES, SIGNATURES

__all__ = ["CLASSES", "SIGNATURES", "SimulateError", "render_signatures", "simulate_cohort"]

"""Gallery: every class once in every sequence, at the slice where its lesion is largest. For people to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hlip.simulate.anatomy import SPACING, build_template
from hlip.simulate.build import build_subject, sequence_image
from hlip.simulate.contrast import SEQUENCES
from hlip.simulate.lesions import CLASSES


def render_signatures(out_png: Path | str, seed: int = 0) -> Path:
    """Draw a grid of 16 classes x 6 sequences, radiological view (patient's right on the left); returns the path.

    Raises:
        SimulateError: nilearn is missing.
    """
    from matplotlib.figure import Figure

    template = build_template()
    figure = Figure(figsize=(1.75 * len(SEQUENCES) + 1, 2.0 * len(CLASSES)), dpi=75)
    panels = figure.subplots(len(CLASSES), len(SEQUENCES))
    for row, name in enumerate(CLASSES):
        subject = build_subject(template, (name,), seed, patient=100 + row, visit=0, age=60)
        focus = subject.mask > 0
        level = int(focus.sum((0, 1)).argmax()) if focus.any() else int((10 - template.affine[2, 3]) / SPACING)
        for column, sequence in enumerate(SEQUENCES):
            image = sequence_image(subject, sequence, np.random.default_rng(seed))
            panel = panels[row, column]
            low, high = np.percentile(image, (0.5, 99.5))
            panel.imshow(np.rot90(image[::-1, :, level]), cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
            panel.set_xticks([])
            panel.set_yticks([])
            if row == 0:
                panel.set_title(sequence)
            if column == 0:
                panel.set_ylabel(name, fontsize=8)
    figure.subplots_adjust(left=0.06, right=0.995, top=0.985, bottom=0.005, wspace=0.03, hspace=0.03)
    figure.savefig(out_png)
    return Path(out_png)

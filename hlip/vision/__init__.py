"""The vision tower: patches, places, attention in the scopes of slice, scan and study."""

from hlip.vision.encoder import (
    MEAN,
    STD,
    StudyEncoder,
    StudyTokens,
    VisionConfig,
    default_scopes,
    draw_kept,
    draw_study_patches,
    grid_of,
    normalise,
)

__all__ = [
    "MEAN",
    "STD",
    "StudyEncoder",
    "StudyTokens",
    "VisionConfig",
    "default_scopes",
    "draw_kept",
    "draw_study_patches",
    "grid_of",
    "normalise",
]

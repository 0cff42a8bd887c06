"""HLIP: hierarchical attention for language-image pre-training on whole radiology studies.

Plain PyTorch, importable in a notebook: no loops over epochs, no launcher. Names are loaded when first used, so that
`import hlip` and `hlip --help` are quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hlip.model import HLIP, HLIPConfig, load
    from hlip.store import Store
    from hlip.study import Scan, Study, read_manifest, write_manifest
    from hlip.taxonomy import Taxonomy
    from hlip.variants import create, list_models
    from hlip.vision import StudyEncoder, VisionConfig
    from hlip.volume import VolumeSpec

__version__ = "0.1.0"

_HOMES = {
    "HLIP": "model",
    "HLIPConfig": "model",
    "Scan": "study",
    "Store": "store",
    "Study": "study",
    "StudyEncoder": "vision",
    "Taxonomy": "taxonomy",
    "VisionConfig": "vision",
    "VolumeSpec": "volume",
    "create": "variants",
    "list_models": "variants",
    "load": "model",
    "read_manifest": "study",
    "write_manifest": "study",
}
__all__ = [
    "HLIP",
    "HLIPConfig",
    "Scan",
    "Store",
    "Study",
    "StudyEncoder",
    "Taxonomy",
    "VisionConfig",
    "VolumeSpec",
    "create",
    "list_models",
    "load",
    "read_manifest",
    "write_manifest",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"hlip.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'hlip' has no attribute '{name}'")

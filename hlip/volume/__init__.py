"""A scan becomes a volume: oriented, windowed, resampled, sized, uint8. `VolumeSpec` says how; its digest travels with every
prepared store and every checkpoint.

Notable choices:
- Axes of a prepared volume are (D, H, W). With the default orientation RPI (the "to" naming of ITK's DICOMOrient filter
  and of nibabel: x grows to the Right, y to the Posterior, z to the Inferior) an axial volume has D from superior to
  inferior, H from anterior to posterior, W from the patient's left to right: upright, and left stays on the left. A
  coronal one has D anterior -> posterior, H superior -> inferior, W left -> right; a sagittal one D left -> right,
  H superior -> inferior, W anterior -> posterior.
- `affine` of a prepared volume maps its own (d, h, w) indices to RAS millimetres through crop, pad and zoom, so that
  whatever is found in the volume can be drawn on the scan.
- fit `square` is the published Pub-Brain-5 protocol: the slices are kept as they were acquired and only their size
  changes (millimetres are lost). fit `spacing` is physical: the same millimetres in every volume, on a grid along the
  patient's axes, or parallel to the slices as the technologist angled them.
- What cannot be prepared under a spec raises `VolumeError` with a reason, as reading does.
- A scan is called sparse when one value holds over 90 % of it and the rest fills less than 10 % of its own box (a
  skull-stripped head in a large field fills half of it). Sparse is refused as `thresholded` under a CT spec, and also
  under an MRI spec when the file's scale slope is no integer, i.e. its values are no longer those of a scanner: so
  stands a CT angiogram of which only vessels are left. Otherwise it is prepared with a note (an MR angiogram).
"""

from __future__ import annotations

from hlip.volume.prepared import PreparedVolume, prepare_volume
from hlip.volume.spec import SpecError, VolumeSpec

__all__ = ["PreparedVolume", "SpecError", "VolumeSpec", "prepare_volume"]

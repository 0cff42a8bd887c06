"""A hospital export of DICOM files -> a manifest and NIfTI files, without names, ids or dates. What a series is, and how it
becomes a volume, is the matter of `hlip.dicom`."""

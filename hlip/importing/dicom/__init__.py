"""A hospital export of DICOM files -> a manifest and NIfTI files, without names, ids or dates."""

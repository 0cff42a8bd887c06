"""A scan from disk to voxels with a trusted place in the patient: NIfTI and its kin, DICOM series (`hlip.dicom`), 2-D images."""

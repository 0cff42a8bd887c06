"""The DICOM files of one series -> its volumes, the one way for every command: of a folder that a manifest names (`hlip.scans.dicom`) as of a
hospital's export (`hlip.importing.dicom`).

    headers, tags, frames    what the files say: a `Slice` each, a `Stack` of what slices share
    kinds, sequence          what a stack is, and whether it is a scan at all
    series, stacks, shells   which slices belong together: a `Part` each scan to be, or the reason why it is none
    geometry, alignment      where slices lie: tilt, gaps, uneven steps
    making, convert, unpack  voxels, by dcm2niix
"""

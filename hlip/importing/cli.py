"""`hlip import SOURCE`: others' ways of laying out data -> a manifest. Each source is described here and done elsewhere."""

from __future__ import annotations

from typing import Any

from hlip.importing.bids import add_bids
from hlip.importing.dicom.cli import add_dicom
from hlip.importing.images import add_images
from hlip.importing.long_table import add_table
from hlip.importing.public.cli import add_public
from hlip.importing.study_folders import add_folders


def add_import(commands: Any) -> None:
    """Add `import` with its sources to the `hlip` command line."""
    command = commands.add_parser(
        "import",
        help="write the manifest of data as others lay it out: DICOM, BIDS, folders, tables, images, public sets",
        description="Write a manifest (JSON lines, one study a line) of data as others lay it out. Started again it writes its own "
        "manifest anew, and nobody else's; patients of dicom, bids, folders and table stay in the splits that they "
        "had. Then: hlip prepare MANIFEST STORE",
    )
    sources = command.add_subparsers(dest="source", metavar="SOURCE", title="sources", required=True)
    for add in (add_dicom, add_bids, add_folders, add_table, add_images, add_public):
        add(sources)

"""STORE/quality.html: one self-contained page to look at before training. No scripts; counts, histograms, the worst twenty, a sample.
And STORE/quality_ID.html: all scans of the studies that somebody asks for.

Notable choices:
- The page shows at most `WORST` + `SAMPLE` scans, so that 100,000 studies make the same page as a hundred. The table has all.
- The pictures before preparing were made when the scan was read and lie in the study's file: the page needs no scan.
- No clock and no path of the store: equal stores have equal pages.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hlip.files.folders import write_atomically
from hlip.files.resources import names
from hlip.quality.flags import FLAGS, worst
from hlip.quality.pictures import pictures_of_skipped, strip, thumbnail
from hlip.store import StoreError, read_metadata, read_pictures, read_spec, read_volumes, skipped_file, study_file
from hlip.volume import VolumeSpec

if TYPE_CHECKING:
    from jinja2 import Template

NAME = "quality.html"
SAMPLE = 12
_BINS = 30
_REASONS = 3  # messages quoted of each reason


def write_sheet(
    store: Path, rows: Sequence[dict[str, Any]], flags: Mapping[str, int], reasons: Mapping[str, int], parts: Mapping[str, int]
) -> Path:
    """Write the page of a store's complete rows.

    Raises:
        OSError: it cannot be written.
    """
    ready = [row for row in rows if row["status"] == "ok"]
    bad = worst(rows)
    shown = {id(row) for row in bad}
    rest = [row for row in ready if id(row) not in shown]
    sample = [rest[round(place)] for place in np.linspace(0, len(rest) - 1, min(SAMPLE, len(rest)))] if rest else []
    spec = read_spec(store)
    page = _template("sheet.html.j2").render(
        spec=spec,
        spec_name=_spec_name(spec),
        studies=len({row["study_id"] for row in rows}),
        usable=len({row["study_id"] for row in ready}),
        rows=rows,
        ready=ready,
        flags=[(name, flags[name], FLAGS[name].meaning) for name in flags],
        known=FLAGS,
        reasons=[(reason, count, _messages(rows, reason)) for reason, count in reasons.items()],
        parts=parts,
        histograms=list(_histograms(ready)),
        worst=[_card(store, row) for row in bad],
        sample=[_card(store, row) for row in sample],
    )
    write_atomically(store / NAME, page.encode())
    return store / NAME


def write_studies(store: Path, rows: Sequence[dict[str, Any]], studies: Sequence[str], out: Path | None = None) -> Path:
    """Write a page of all scans of some studies, skipped ones too, beside the store's page or to `out`.

    Args:
        rows: complete, of the whole store.

    Raises:
        StoreError: no study of that id, or the page cannot be written.
    """
    studies = list(dict.fromkeys(studies))
    found: dict[str, list[dict[str, Any]]] = {study: [] for study in studies}
    for row in rows:
        if row["study_id"] in found:
            found[row["study_id"]].append(row)
    if unknown := [study for study in studies if not found[study]]:
        raise StoreError(f"{store}: no study '{unknown[0]}' in its quality table; the ids stand there, and in the manifest")
    more = f"_and_{len(studies) - 1}_more" if len(studies) > 1 else ""
    out = out or store / f"quality_{studies[0]}{more}.html"
    spec = read_spec(store)
    cards = {study: [_card(store, row) for row in own] for study, own in found.items()}
    page = _template("studies.html.j2").render(spec=spec, spec_name=_spec_name(spec), studies=cards)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, page.encode())
    except OSError as error:
        raise StoreError(f"{out}: cannot be written ({error})") from error
    return out


def _template(name: str) -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["share"] = _share
    environment.globals["zip_ends"] = lambda row: list(zip(row["low"], row["high"], strict=False))
    return environment.get_template(name)


def _spec_name(spec: VolumeSpec) -> str:
    """The built-in ones of this content by name; always the digest, which a store and its checkpoints share."""
    digest = spec.digest()
    same = [name for name in names("volume") if VolumeSpec.load(name).digest() == digest]
    return f"{' = '.join(same) or 'of your own'} ({digest})"


def _messages(rows: Sequence[Mapping[str, Any]], reason: str) -> list[str]:
    return [f"{row['study_id']}: {row['message']}" for row in rows if row["reason"] == reason][:_REASONS]


def _card(store: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    """One scan with its pictures; a damaged file has none."""
    before, after = "", []
    try:
        file = study_file(store, row["study_id"])
        skipped = skipped_file(store, row["study_id"])
        pictures = read_pictures(file) if file.is_file() else pictures_of_skipped(read_metadata(skipped))
        before = _data_uri(pictures[row["scan"]]) if row["scan"] in pictures else ""
        after = _after(file, row) if row["volumes"] else []
    except (StoreError, ValueError, IndexError):
        pass
    return {"row": row, "before": before, "after": after}


def _after(file: Path, row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Window and picture of each of a scan's volumes; one picture of the three of an image."""
    volumes, affines = read_volumes(file, row["volumes"])
    if len(volumes) == 3 and volumes[0].shape[0] == 1:  # red, green and blue of an image
        return [("", _data_uri(thumbnail(np.stack([volume[0] for volume in volumes], -1))))]
    windows = row["windows"] or [""] * len(volumes)
    pairs = zip(windows, volumes, affines, strict=False)
    return [(name, _data_uri(strip(volume, affine, (0, 255)))) for name, volume, affine in pairs]


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _histograms(rows: Sequence[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """Title, unit and bars (height 0..1, what it says) of each measure that scans have."""
    measures = (
        ("foreground of the scan", "%", [100 * row["foreground"] for row in rows if row["foreground"] is not None]),
        ("slice spacing", "mm", [max(row["spacing_mm"]) for row in rows if row["spacing_mm"]]),
        ("in-plane spacing", "mm", [min(row["spacing_mm"]) for row in rows if row["spacing_mm"]]),
        ("ghosting", "%", [100 * row["ghosting"] for row in rows if row["ghosting"] is not None]),
    )
    for title, unit, values in measures:
        finite = [value for value in values if math.isfinite(value)]
        if finite:
            ends = (min(finite), max(finite)) if min(finite) < max(finite) else (0.0, 2 * max(finite) or 1.0)
            counts, edges = np.histogram(finite, bins=_BINS, range=ends)
            middle = float(np.median(finite))
            bars = [
                (float(count) / max(1, int(counts.max())), f"{low:.3g} to {high:.3g} {unit}: {count}")
                for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
            ]
            yield {"title": title, "unit": unit, "bars": bars, "low": edges[0], "high": edges[-1], "median": middle}


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"  # noqa: RUF001

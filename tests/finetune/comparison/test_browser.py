"""The page in a browser, at desktop and phone width: nothing sticks out, every figure is there, the type can be read."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.comparison.report import write_report

Written = Callable[..., tuple[Path, dict[str, Any]]]
LONG = {
    "a1": "white matter hyperintensity of presumed vascular origin",
    "a2": "acute disseminated encephalomyelitis",
    "b1": "Dandy-Walker malformation and related posterior fossa cysts",
}
"""Names as they really are."""
SMALLEST = 9.5
"""CSS pixels."""
MEASURE = """
const w = f.contentWindow, d = f.contentDocument, root = d.documentElement;
const shown = e => e.getClientRects().length > 0, size = e => parseFloat(w.getComputedStyle(e).fontSize);
d.querySelectorAll('details').forEach(e => e.open = true);
const figures = [...d.querySelectorAll('figure')].map(g => [...g.querySelectorAll('svg')].filter(shown).map(s => {
  const box = s.getBoundingClientRect(), scale = box.width / s.viewBox.baseVal.width;
  const letters = [...s.querySelectorAll('text')];
  const out = letters.filter(t => { const r = t.getBoundingClientRect(); return r.left < box.left - 2 || r.right > box.right + 2; });
  return {width: box.width, height: box.height, letters: letters.length, out: out.map(t => t.textContent),
    small: Math.min(...letters.map(t => size(t) * scale))};
}));
const own = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
const texts = [...d.body.querySelectorAll('*')].filter(e => !e.closest('svg') &&
  !['SCRIPT', 'STYLE'].includes(e.tagName) && shown(e) && own(e));
const broken = [...d.images].filter(i => !i.naturalWidth).length;
const head = d.querySelector('table.sortable th:nth-child(3)'), body = head.closest('table').tBodies[0];
const column = () => [...body.rows].map(r => Number(r.cells[2].dataset.v));
head.click(); const sorted = column();
const cut = [...d.querySelectorAll('.scroll')].filter(shown).filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => e.textContent.slice(0, 60));
const edge = d.querySelector('table.classes').closest('.scroll').getBoundingClientRect().right;
const first = [...d.querySelectorAll('table.classes')].every(t => [...t.rows].slice(1).every(r => {
  const cell = r.cells[%(place)d], own = cell.getBoundingClientRect(); return own.width > 0 && own.right <= edge + 1; }));
document.title = JSON.stringify({scroll: root.scrollWidth, client: root.clientWidth, height: root.scrollHeight, figures, broken, sorted,
  cut, first,
  small: Math.min(...texts.map(size))});
"""


@pytest.fixture(scope="module")
def browser() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


def opened(browser: str, page: Path, width: int, height: int, folder: Path, *options: str, script: str = "") -> str:
    """Open the page in a frame, because a headless window is never narrower than 500 px; what the browser prints."""
    wrap = folder / f"wrap_{width}.html"
    frame = f'<iframe id=f src="{page.as_uri()}" style="border:0;width:{width}px;height:{height}px" onload="{html.escape(script)}"></iframe>'
    wrap.write_text(f'<!DOCTYPE html><meta charset="utf-8"><body style="margin:0">{frame}', encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
    command += [
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--allow-file-access-from-files",
    ]
    command += [f"--user-data-dir={folder / 'profile'}", f"--window-size={max(width, 500)},{height}", *options, wrap.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("width", "methods"),
    [(390, 2), (1280, 2), pytest.param(390, 5, marks=SLOW), pytest.param(1280, 5, marks=SLOW)],
)
def test_page_in_a_browser(browser: str, written: Written, width: int, methods: int, tmp_path: Path) -> None:
    out, _ = written(methods, drawn=True)
    place = 4 if methods == 2 else 3 if width < 700 else 2 + 5 + 3  # the difference; on a phone with five methods two AUCs
    check_page(measured(browser, out / "index.html", width, place, tmp_path), width)


@pytest.fixture(scope="module")
def long_page(browser: str, written: Written, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with classes of long names."""
    text = (written(2)[0] / "comparison.json").read_text()
    for short, long in LONG.items():
        text = text.replace(json.dumps(short), json.dumps(long))
    comparison = json.loads(text)
    assert set(LONG.values()) <= set(comparison["levels"]["2"]["classes"])
    return write_report(comparison, None, tmp_path_factory.mktemp("long"), title="Zero-shot beside fine-tuned diagnoses")


@pytest.mark.parametrize("width", [390, 1280])
def test_long_names_of_classes_fit(browser: str, long_page: Path, width: int, tmp_path: Path) -> None:
    check_page(measured(browser, long_page, width, 4, tmp_path), width, figures=14)  # all but the training curves


def measured(browser: str, page: Path, width: int, place: int, folder: Path) -> dict[str, Any]:
    dom = opened(browser, page, width, 900, folder, "--dump-dom", script=MEASURE % {"place": place})
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title is not None
    return json.loads(html.unescape(title[1]))


def check_page(found: dict[str, Any], width: int, figures: int = 15) -> None:
    assert found["scroll"] <= found["client"] <= width, "the page is wider than the window"
    assert len(found["figures"]) == figures
    for figure in found["figures"]:
        assert len(figure) == 1, "one drawing of a figure is shown, the wide or the narrow one"
        assert figure[0]["width"] <= width
        assert figure[0]["height"] > 100
        assert figure[0]["letters"] > 5
        assert figure[0]["out"] == []
        assert figure[0]["small"] >= SMALLEST
    assert found["first"], "a table of classes must show its difference without scrolling"
    if width == 1280:
        assert found["cut"] == []
    assert found["broken"] == 0
    assert found["small"] >= SMALLEST
    assert found["sorted"] == sorted(found["sorted"], reverse=True)


@pytest.mark.parametrize("width", [390, 1280])
def test_screenshot(browser: str, written: Written, width: int, tmp_path: Path) -> None:
    out, _ = written(2)
    path = tmp_path / "page.png"
    opened(browser, out / "index.html", width, 6000, tmp_path, f"--screenshot={path}")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))[:, :width].astype(int)
    assert pixels.shape == (6000, width)
    ink = (abs(pixels - pixels[3, 3]) > 40).mean(axis=1)
    blank = np.diff(np.flatnonzero(np.concatenate([[True], ink > 0, [True]])))
    assert blank.max() < 260, "a hole in the page: a figure is missing"

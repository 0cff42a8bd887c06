"""Who may import whom, and what an installed wheel carries."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"hlip", "hp2l", "pretrain", "finetune"}
MAY_IMPORT = {
    "hlip": {"hlip"},
    "hp2l": {"hp2l", "hlip"},
    "pretrain": {"pretrain", "hlip"},
    "finetune": {"finetune", "hp2l", "hlip"},
}


def imported(file: Path) -> set[str]:
    """Top-level names of every import of a file, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(OURS))
def test_nouns_and_verbs_keep_to_their_neighbours(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        wrong = (imported(file) & OURS) - MAY_IMPORT[package]
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


def test_the_import_rule_can_fail(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from finetune.train import main\n")
    assert imported(file) & OURS == {"finetune"}


def test_importing_hlip_and_asking_for_help_load_no_torch():
    code = "import sys, hlip, hlip.cli; hlip.cli.build_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel, unpacked away from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout: cannot tell which files belong to the project")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_a_wheel_finds_its_built_in_files_by_name(wheel):
    code = (
        "import hlip, json; from hlip.files.resources import names; from hlip.taxonomy import Taxonomy; from hlip.volume import VolumeSpec;"
        "from hlip.zeroshot import PromptSet; import finetune.comparison.report;"
        "print(json.dumps([hlip.__file__, Taxonomy.load('brain_mri').counts, VolumeSpec.load('demo').size,"
        " len(PromptSet.load('hlip').templates), names('pretrain'), names('finetune')]))"
    )
    # -I: neither the checkout nor its editable install may help
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(wheel)!r}); {code}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=wheel)
    assert ran.returncode == 0, ran.stderr
    import json

    home, counts, size, templates, pretrain, finetune = json.loads(ran.stdout)
    assert Path(home).is_relative_to(wheel)
    assert (counts, size, templates) == ([4, 6, 16], [24, 64, 64], 18)
    assert "demo" in pretrain
    assert "demo" in finetune
    assert (wheel / "finetune" / "comparison" / "template.html.j2").is_file()

"""Hugging Face conventions: what is saved, read back, and would be uploaded."""

from __future__ import annotations

import copy
import json
import pickle
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, ModelHubMixin
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file

import hlip
from hlip.model import HLIP, CheckpointError, HLIPConfig, load
from hlip.official import checkpoint as official
from hlip.text import TextConfig, grow_text_source
from hlip.vision import VisionConfig
from hlip.volume import VolumeSpec

TEXTS = ["This study shows: acute infarction.", "This study shows: no hemorrhage, no mass.", "This study shows: glioma."] * 3


def tiny() -> HLIPConfig:
    vision = VisionConfig(size=(8, 16, 16), patch=(2, 8, 8), width=64, heads=1, scopes=["scan", "study"])
    return HLIPConfig(12, vision, TextConfig(width=64, depth=1, heads=1, vocabulary=80, context_length=24))


@pytest.fixture
def model(tmp_path: Path) -> HLIP:
    torch.manual_seed(0)
    made = HLIP(tiny(), text_source=grow_text_source(tmp_path / "source", TEXTS, tiny().text)).eval()
    made.volume_spec = VolumeSpec.load("demo")
    made.facts = {"simulated": True, "step": 7}
    return made


def outputs(model: HLIP) -> list[torch.Tensor]:
    volumes = torch.randint(0, 256, (3, 1, 8, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    return [model.encode_study(volumes, [2, 1]), model.encode_text(TEXTS[:3])]


def same(one: HLIP, other: HLIP) -> bool:
    return all(torch.equal(left, right) for left, right in zip(outputs(one), outputs(other), strict=True))


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_save_pretrained_leaves_what_save_leaves_and_from_pretrained_reads_both(model, tmp_path):
    model.save(tmp_path / "run" / "model")
    assert model.save_pretrained(tmp_path / "hub") is None
    saved = content(tmp_path / "hub")
    assert saved == content(tmp_path / "run" / "model")
    assert saved.keys() >= {"config.json", "model.safetensors", "README.md", "text/config.json", "text/tokenizer.json"}
    assert json.loads(saved["config.json"])["format"] == "hlip-1"
    for place in (tmp_path / "hub", str(tmp_path / "run" / "model"), tmp_path / "run"):  # a run folder too
        again = HLIP.from_pretrained(place, device=torch.device("cpu"))
        assert same(again, model)
        assert not again.training
        assert (again.volume_spec, again.facts) == (model.volume_spec, model.facts)
    assert same(load(tmp_path / "hub"), model)


def test_the_card_is_of_this_model_readable_and_rewritten(model, tmp_path):
    for step in (7, 8123):
        model.facts["step"] = step
        model.save_pretrained(tmp_path / "hub")
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert card.data.library_name == "hlip-hp2l"
    assert "| steps done | 8123 |" in card.text
    assert card.content == model.generate_model_card().content
    modes = {path.stat().st_mode & stat.S_IRGRP for path in (tmp_path / "hub").rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "source" / "config.json").stat().st_mode & stat.S_IRGRP}  # as the umask grants


def test_nothing_else_in_the_folder_is_lost(model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds notes\.txt"):
        model.save_pretrained(tmp_path)
    with pytest.raises(NotADirectoryError):
        model.save_pretrained(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(TypeError, match="describes itself"):
        model.save_pretrained(tmp_path / "new", config={"a": 1})


def test_a_failing_save_leaves_the_old_checkpoint(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "hub")
    before = content(tmp_path / "hub")
    monkeypatch.setattr("hlip.model.model_card", lambda description: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.save_pretrained(tmp_path / "hub")
    assert content(tmp_path / "hub") == before


def test_the_module_is_still_built_copied_and_pickled_as_before(model, tmp_path):
    assert isinstance(model, ModelHubMixin)
    by_name = HLIP(config=tiny(), text_source=tmp_path / "source", need_tokenizer=True)
    assert by_name.config == tiny()
    assert set(by_name.state_dict()) == set(model.state_dict())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same(twin, model)
        with torch.no_grad():
            twin.visual_proj.weight.zero_()
        twin.config.prefix = "other"
        assert model.visual_proj.weight.any()
        assert model.config.prefix == "This study shows: "
        twin.save(tmp_path / "twin")
        assert load(tmp_path / "twin").config.prefix == "other"


def test_what_would_be_uploaded_is_the_whole_checkpoint_with_its_card(model, tmp_path, monkeypatch):
    made, sent = [], []

    def create_repo(self, repo_id, **options):
        made.append((repo_id, options["private"]))
        return SimpleNamespace(repo_id=f"owner/{repo_id}" if "/" not in repo_id else repo_id)

    def upload_folder(self, *, repo_id, folder_path, **options):
        sent.append((repo_id, options["revision"], options["commit_message"], content(Path(folder_path))))
        return "https://hub/commit"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    model.save(tmp_path / "mine")
    assert model.push_to_hub("owner/name", private=True, branch="v1", commit_message="first") == "https://hub/commit"
    assert model.save_pretrained(tmp_path / "mine", push_to_hub=True, private=False) == "https://hub/commit"
    assert made == [("owner/name", True), ("mine", False)]
    whole = content(tmp_path / "mine")
    assert sent[0] == ("owner/name", "v1", "first", whole)
    assert (sent[1][0], sent[1][3]) == ("owner/mine", whole)
    assert b"library_name: hlip-hp2l" in whole["README.md"]


@pytest.fixture
def hub(model, tmp_path, monkeypatch):
    """A hub with one repository, in the order its files are asked for; and where no folder stands in the way."""
    asked = []

    def snapshot_download(repo_id, **options):
        asked.append((repo_id, options))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return asked


def test_a_hub_id_is_fetched_as_asked(model, tmp_path, hub):
    model.save(tmp_path / "snapshot")
    patterns = ["*.json", "*.txt", "*.safetensors"]
    assert same(HLIP.from_pretrained("owner/name"), model)
    assert hub.pop() == ("owner/name", {"revision": None, "allow_patterns": patterns})
    assert same(HLIP.from_pretrained("hf-hub:owner/name@v1.0"), model)
    assert hub.pop() == ("owner/name", {"revision": "v1.0", "allow_patterns": patterns})
    wishes = {
        "revision": "abc",
        "token": False,
        "cache_dir": tmp_path / "cache",
        "local_files_only": True,
        "force_download": True,
    }
    assert same(HLIP.from_pretrained("owner/name@v1.0", device="cpu", **wishes), model)
    assert hub.pop() == ("owner/name", wishes | {"allow_patterns": patterns})
    HLIP.from_pretrained(tmp_path / "snapshot", revision="abc")  # a folder asks nobody
    assert hub == []


def test_an_official_checkpoint_comes_from_the_hub_too(model, tmp_path, hub):
    official.export(model, tmp_path / "snapshot")
    file = tmp_path / "snapshot" / "open_clip_config.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in told.items() if key != "hlip"}))  # as the official code writes it
    again = HLIP.from_pretrained("owner/name", token="secret", variant=scopes(tmp_path))
    assert same(again, model)
    assert again.facts["source"] == "owner/name"  # not a folder of this machine's cache
    assert hub[0][1]["token"] == "secret"
    again.save_pretrained(tmp_path / "ours")
    assert same(load(tmp_path / "ours"), model)
    assert "official checkpoint: owner/name" in (tmp_path / "ours" / "README.md").read_text()


def scopes(folder: Path) -> Path:
    """A model file that tells the attention scopes of `tiny`."""
    vision = "{size: [8, 16, 16], patch: [2, 8, 8], width: 64, heads: 1, scopes: [scan, study]}"
    (folder / "tiny.yaml").write_text(f"official: null\nvolume: null\nmodel: {{embed_dim: 12, vision: {vision}}}\n")
    return folder / "tiny.yaml"


def test_what_is_not_to_be_had_is_named(tmp_path, monkeypatch):
    def absent(repo_id, **options):
        raise LocalEntryNotFoundError("the hub cannot be reached")

    monkeypatch.setattr("huggingface_hub.snapshot_download", absent)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"owner/name: no such folder here, .*hub cannot be reached"):
        HLIP.from_pretrained("owner/name", local_files_only=True)
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        HLIP.from_pretrained(tmp_path / "absent")
    assert hlip.HLIP is HLIP


def test_the_weights_of_an_engine_are_saved_with_the_card(model, tmp_path):
    state = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    model.save(tmp_path / "model", state)
    assert not any(value.any() for value in load_file(tmp_path / "model" / "model.safetensors").values())
    assert (tmp_path / "model" / "README.md").is_file()

"""Hugging Face conventions for fine-tuned models: what is saved, read back, and would be uploaded."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, ModelHubMixin

import hp2l
from hlip.model import HLIP, CheckpointError, HLIPConfig
from hlip.taxonomy import Taxonomy
from hlip.text import TextConfig, grow_text_source
from hlip.vision import VisionConfig
from hlip.volume import VolumeSpec
from hp2l.diagnoser import Diagnoser, load
from hp2l.encoders import CNNConfig, CNNEncoder, ImageConfig, ImageEncoder
from hp2l.heads import HeadConfig

HEAD = HeadConfig(blocks=(1, 2, 2), width=16, heads=2)
SIZES = {"hlip": (8, 16, 16), "cnn": (8, 16, 16), "image": (1, 64, 64)}


def made(kind: str, folder: Path) -> Diagnoser:
    torch.manual_seed(0)
    spec = VolumeSpec.from_dict(VolumeSpec.load("demo").as_dict() | {"size": list(SIZES[kind])})
    if kind == "hlip":
        text = TextConfig(width=16, depth=1, heads=2, vocabulary=80, context_length=24)
        vision = VisionConfig(size=(8, 16, 16), patch=(2, 8, 8), width=24, heads=2, scopes=["scan", "study"])
        encoder = HLIP(HLIPConfig(12, vision, text), text_source=grow_text_source(folder / "text", ["No glioma."], text))
        encoder.volume_spec, encoder.facts = (
            spec,
            {"kind": "pretrain", "studies": 9021, "simulated": True, "training": {"steps": 7}},
        )
    elif kind == "cnn":
        encoder = CNNEncoder(CNNConfig(channels=("T1", "T2", "FLAIR"), width=64), spec)
    else:
        encoder = ImageEncoder(ImageConfig("resnet10t", pretrained=False), spec)
    model = Diagnoser(encoder, HEAD, Taxonomy.load("leukemia")).eval()
    model.facts = {"simulated": True, "step": 7, "val_auc": 0.75}
    return model


@pytest.fixture
def model(tmp_path: Path) -> Diagnoser:
    return made("hlip", tmp_path)


def same(one: Diagnoser, other: Diagnoser) -> bool:
    size = SIZES[one.encoder.kind]
    volumes = torch.randint(0, 256, (3, 1, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    return all(
        torch.equal(left, right) for left, right in zip(one.diagnose(volumes, [3]), other.diagnose(volumes, [3]), strict=True)
    )


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", SIZES)
def test_save_pretrained_leaves_what_save_leaves_and_from_pretrained_reads_both(kind, tmp_path):
    model = made(kind, tmp_path)
    model.save(tmp_path / "run" / "model")
    assert model.save_pretrained(tmp_path / "hub") is None
    saved = content(tmp_path / "hub")
    assert saved == content(tmp_path / "run" / "model")
    assert saved.keys() >= {"config.json", "head.safetensors", "README.md", "encoder/config.json", "encoder/model.safetensors"}
    for place in (tmp_path / "hub", str(tmp_path / "run" / "model"), tmp_path / "run"):  # a run folder too
        again = Diagnoser.from_pretrained(place, device=torch.device("cpu"))
        assert same(again, model)
        assert not again.training
        assert (again.facts, again.config, again.taxonomy) == (model.facts, model.config, model.taxonomy)
        again.save_pretrained(tmp_path / "again")
        assert content(tmp_path / "again") == saved  # what is read back is all there was


def test_config_json_tells_of_the_encoder_what_the_card_needs(model, tmp_path):
    model.save(tmp_path / "model")
    told = json.loads((tmp_path / "model" / "config.json").read_text())["encoder"]
    assert told["kind"] == "hlip"
    assert told["volume_spec"] == model.encoder.volume_spec.as_dict()
    assert told["facts"] == {"kind": "pretrain", "studies": 9021, "simulated": True}
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.content == model.generate_model_card().content
    assert "| mean of the levels | 0.75 | validation |" in card.text


def test_an_older_folder_without_a_card_still_opens(model, tmp_path):
    model.save(tmp_path / "model")
    (tmp_path / "model" / "README.md").unlink()
    file = tmp_path / "model" / "config.json"
    told = json.loads(file.read_text())
    del told["encoder"]
    file.write_text(json.dumps(told))
    again = load(tmp_path / "model")
    assert same(again, model)
    again.save(tmp_path / "model")  # and gets its card when it is saved anew
    assert content(tmp_path / "model")["README.md"].decode() == model.card()


def test_a_failing_card_leaves_the_old_checkpoint(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "hub")
    before = content(tmp_path / "hub")
    monkeypatch.setattr("hp2l.diagnoser.diagnoser_card", lambda description: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.save_pretrained(tmp_path / "hub")
    assert content(tmp_path / "hub") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds notes\.txt"):
        model.save_pretrained(tmp_path / "mine")


def test_the_module_is_still_built_copied_and_pickled_as_before(model):
    assert isinstance(model, ModelHubMixin)
    by_name = Diagnoser(encoder=model.encoder, config=HEAD, taxonomy=model.taxonomy)
    assert by_name.config is HEAD
    assert set(by_name.state_dict()) == set(model.state_dict())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same(twin, model)
        twin.facts["step"] = 8
        assert model.facts["step"] == 7


def test_what_would_be_uploaded_is_the_whole_checkpoint_with_its_card(model, tmp_path, monkeypatch):
    created, sent = [], []

    def create_repo(self, repo_id, **options):
        created.append((repo_id, options["private"]))
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id, folder_path, **options):
        sent.append((repo_id, options["revision"], options["commit_message"], content(Path(folder_path))))
        return "https://hub/commit"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    model.save(tmp_path / "mine")
    assert model.push_to_hub("owner/name", private=True, branch="v1", commit_message="first") == "https://hub/commit"
    assert created == [("owner/name", True)]
    whole = content(tmp_path / "mine")
    assert sent == [("owner/name", "v1", "first", whole)]
    assert b"library_name: hlip-hp2l" in whole["README.md"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one repository, in the order its files are asked for; and where no folder stands in the way."""
    asked = []

    def snapshot_download(repo_id, **options):
        asked.append((repo_id, options["revision"]))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return asked


def test_a_hub_id_is_fetched_as_asked(model, tmp_path, hub):
    model.save(tmp_path / "snapshot")
    (tmp_path / "snapshot" / "README.md").unlink()  # it is not among what is fetched
    assert same(hp2l.load("owner/name@v1.0"), model)
    assert same(hp2l.load(Path("hf-hub:owner/name")), model)  # as the command line gives it
    assert same(Diagnoser.from_pretrained("owner/name", revision="abc"), model)
    assert hub == [("owner/name", "v1.0"), ("owner/name", None), ("owner/name", "abc")]
    hp2l.load(tmp_path / "snapshot")  # a folder asks nobody
    assert len(hub) == 3
    with pytest.raises(CheckpointError, match="trained on taxonomy 'leukemia'"):
        Diagnoser.from_pretrained("owner/name", taxonomy=Taxonomy.load("brain_mri"))
    model.encoder.model.save(tmp_path / "pretrained")
    with pytest.raises(CheckpointError, match=r"'hlip-1' is not 'hp2l-1'"):
        Diagnoser.from_pretrained(tmp_path / "pretrained")

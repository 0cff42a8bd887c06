"""Every file of configs/pretrain, configs/accelerate, configs/deepspeed and configs/slurm: loaded, checked, and run for a first step."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file, save_file

import hlip
import pretrain.train
from hlip.config import parse_config, plain
from hlip.files.resources import configs_folder, names
from hlip.text import TextConfig, grow_text_source
from hlip.variants import Variant
from pretrain.settings import PretrainConfig
from pretrain.train import Run

pytestmark = pytest.mark.usefixtures("fresh_engine", "unsaved_figures")

CONFIGS = configs_folder()
TINY = Path(__file__).with_name("tiny.yaml")
STUDIES = 24  # of the tiny store's training split


@dataclass(frozen=True)
class Published:
    """What is public of a recipe, and the architecture it trains."""

    scans: int
    batch: int
    lr: float
    warmup: int
    patch_dropout: float
    epochs: int
    architecture: str


RECIPES = {
    "mri": Published(8, 384, 3e-4, 1600, 0.5, 25, "vit_base_scan_study"),
    "ct": Published(10, 256, 2e-4, 2500, 0.25, 20, "vit_base_scan_study"),
    "mri_ct": Published(8, 768, 5e-4, 2400, 0.5, 20, "vit_base_scan_study"),
    "mri_ct_large": Published(8, 768, 5e-4, 2400, 0.5, 20, "vit_large_scan_study"),
    "mri_ct + unmasked": Published(8, 768, 5e-5, 400, 0.0, 5, "vit_base_scan_study"),
    "mri_ct_large + unmasked": Published(8, 768, 5e-5, 400, 0.0, 5, "vit_large_scan_study"),
    "chest_ct": Published(1, 64, 1e-5, 377, 0.0, 20, "chest_ct_vit_base"),
    "mr_rate": Published(
        8, 384, 3e-4, 600, 0.5, 25, "vit_base_scan_study"
    ),  # ours: mri with a shorter warm-up, never run in full
}

# accelerate's name of the engine, processes, machines, ZeRO stage
LAUNCHES = {
    "cpu_1": ("NO", 1, 1, None),
    "cpu_2": ("MULTI_GPU", 2, 1, None),
    "cpu_2_zero2": ("DEEPSPEED", 2, 1, 2),
    "gpu_1": ("NO", 1, 1, None),
    "gpu_8": ("MULTI_GPU", 8, 1, None),
    "gpu_8_zero2": ("DEEPSPEED", 8, 1, 2),
    "nodes_2": ("MULTI_GPU", 16, 2, None),
    "nodes_2_zero2": ("DEEPSPEED", 16, 2, 2),
}


def recipe(name: str, *more: str) -> PretrainConfig:
    """As the command reads `--config A --config B ...`."""
    files = [word for part in name.split(" + ") for word in ("--config", part)]
    return parse_config(PretrainConfig, command="pretrain", description="", argv=[*files, *more])


def shrunk(store: Path, out: Path) -> list[str]:
    """Options that make a recipe tiny; its depth, scopes, rates and epochs stay. A locked tower needs a source of its own."""
    text = TextConfig(width=16, depth=1, heads=2, vocabulary=120, context_length=32)
    source = grow_text_source(
        out.with_name(f"{out.name}_text"), ["There is glioma seen.", "No significant abnormalities."], text
    )
    small = {
        "model.embed_dim": 16,
        "model.vision.size": [8, 16, 16],
        "model.vision.patch": [2, 8, 8],
        "model.vision.width": 24,
        "model.vision.heads": 2,
        "model.text.source": source,
        "model.text.pretrained": "false",
        "model.text.context_length": 32,
        "model.text.width": 16,
        "model.text.depth": 1,
        "model.text.heads": 2,
        "model.text.vocabulary": 120,
        "batch_size": 8,
        "chunk_studies": 4,
        "workers": 0,
        "trackers": [],
        "log_every": 1,
        "save_every": 1,
        "validation.every": 0,
        "validation.taxonomy": "brain_mri",  # the tiny store's
    }
    return [
        "--store",
        str(store),
        "--out",
        str(out),
        *(word for key, value in small.items() for word in (f"--{key}", str(value))),
    ]


def flat_vit(file: Path, depth: int) -> dict[str, torch.Tensor]:
    """Stands in for the published 2-D ViT: its weights, and the file they are in."""
    from timm.models.vision_transformer import VisionTransformer

    state = VisionTransformer(img_size=16, patch_size=8, embed_dim=24, depth=depth, num_heads=2).state_dict()
    save_file(state, file)
    return state


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in rows(run) if "loss" in row]


# recipes


def test_no_recipe_is_left_out():
    assert {part for name in RECIPES for part in name.split(" + ")} | {"demo"} == set(names("pretrain"))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_was_published(name):
    config, published = recipe(name, "--store", "store", "--out", "run"), RECIPES[name]
    found = Published(
        config.sampling.max_scans,
        config.batch_size,
        config.optimizer.lr,
        config.optimizer.warmup_steps,
        config.model.vision.patch_dropout,
        int(config.epochs or 0),
        published.architecture,
    )
    assert found == published
    assert (config.optimizer.betas, config.optimizer.eps, config.optimizer.weight_decay) == ((0.9, 0.95), 1e-6, 0.2)
    assert config.steps is None
    assert config.batch_size % config.chunk_studies == 0
    assert config.model.vision.checkpoint_blocks
    chest = name == "chest_ct"
    assert (config.loss.sentence, config.loss.report) == ((1, 0) if chest else (0.5, 0.5))
    assert config.sampling.sentence_dropout is not chest
    assert config.model.text.locked is chest
    timm_name = None if "unmasked" in name else f"vit_{'large' if 'large' in name else 'base'}_patch16_224.mae"
    assert config.init_vision == timm_name


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_a_named_model(name):
    config = recipe(name, "--store", "store", "--out", "run")
    own, named = plain(config.model), plain(Variant.load(RECIPES[name].architecture).config)
    for model in (own, named):  # how it is trained, not what it is
        del model["vision"]["patch_dropout"], model["vision"]["checkpoint_blocks"]
    assert own == named


@pytest.mark.parametrize("name", [*RECIPES, "demo"])
def test_a_recipe_makes_its_first_step(name, tiny_store, tmp_path, stopped_at, fresh_engine):
    parsed = recipe(name, "--store", "store", "--out", "run")
    start, flat = tmp_path / "start", tmp_path / "flat.safetensors"
    vit = flat_vit(flat, len(parsed.model.vision.scopes))
    if "unmasked" in name:
        masked = recipe(name.partition(" + ")[0], *shrunk(tiny_store, start), "--init_vision", str(flat))
        stopped_at(pretrain.train, "train_step", 2, Run(masked).train)
        fresh_engine()
        weight = load_file(start / "model" / "model.safetensors")["visual.blocks.1.attn.qkv.weight"]
        config = recipe(name, *shrunk(tiny_store, tmp_path / "run"), "--init", str(start))
    else:
        weight = vit["blocks.1.attn.qkv.weight"]
        config = recipe(
            name, *shrunk(tiny_store, tmp_path / "run"), "--init_vision", str(flat if parsed.init_vision else "null")
        )
    run = Run(config)
    same = torch.equal(run.model.state_dict()["visual.blocks.1.attn.qkv.weight"], weight)
    assert same is (name != "demo")  # which starts from nothing
    stopped_at(pretrain.train, "train_step", 2, run.train)

    (loss,) = losses(tmp_path / "run")
    assert math.isfinite(loss)
    steps = config.steps or math.ceil((config.epochs or 0) * STUDIES / 8)
    assert run.steps == steps
    groups = run.optimizer.param_groups
    rate = config.optimizer.lr / min(config.optimizer.warmup_steps, steps)
    assert rows(tmp_path / "run")[0]["lr"] == pytest.approx(rate)  # the first of the warm-up
    assert [group["lr"] for group in groups] == pytest.approx(
        [2 * rate] * len(groups)
    )  # the second, before which it was stopped
    assert {group["weight_decay"] for group in groups} == {0.0, config.optimizer.weight_decay}
    assert {(group["betas"], group["eps"]) for group in groups} == {((0.9, 0.95), 1e-6)}
    learnt = {id(parameter) for group in groups for parameter in group["params"]}
    assert all(id(parameter) in learnt for parameter in run.model.text.encoder.proj.parameters())
    bert = list(run.model.text.encoder.transformer.parameters())
    assert sum(id(parameter) in learnt for parameter in bert) == (0 if config.model.text.locked else len(bert))
    model = hlip.load(tmp_path / "run")
    assert model.config.vision.patch_dropout == parsed.model.vision.patch_dropout
    assert model.config.vision.scopes == parsed.model.vision.scopes
    assert model.config.prefix == ("" if name == "chest_ct" else "This study shows: ")


def test_the_overlay_alone_does_not_pass_for_another_recipe(tiny_store, tmp_path, stopped_at, fresh_engine):
    """unmasked.yaml without the recipe it is laid over describes another model than the run's."""
    masked = recipe("mri_ct_large", *shrunk(tiny_store, tmp_path / "masked"), "--init_vision", "null")
    stopped_at(pretrain.train, "train_step", 2, Run(masked).train)
    fresh_engine()
    config = recipe("unmasked", *shrunk(tiny_store, tmp_path / "run"), "--init", str(tmp_path / "masked"))
    with pytest.raises(ValueError, match="the model differs from that of init: vision"):
        Run(config)


# launch files


def test_no_launch_file_is_left_out():
    assert set(LAUNCHES) == set(names("accelerate"))
    told = (CONFIGS / "accelerate" / "README.md").read_text(encoding="utf-8")
    assert [name for name in [*LAUNCHES, *names("deepspeed", ".json")] if f"`{name}`" not in told] == []


@pytest.mark.parametrize("name", LAUNCHES)
def test_accelerate_reads_a_launch_file(name):
    config = load_config_from_file(str(CONFIGS / "accelerate" / f"{name}.yaml"))
    found = config.distributed_type.value, config.num_processes, config.num_machines, config.deepspeed_config.get("zero_stage")
    assert found == LAUNCHES[name]
    assert config.mixed_precision == "no"  # the recipe's choice
    assert config.use_cpu is (name in ("cpu_1", "cpu_2"))
    several = config.num_machines > 1
    assert (config.deepspeed_config.get("deepspeed_multinode_launcher") == "standard") is (several and "zero" in name)
    assert config.deepspeed_config.get("gradient_accumulation_steps", 1) == 1  # the step counts its chunks itself


@pytest.mark.parametrize(("name", "stage", "offload"), [("zero2", 2, False), ("zero3", 3, False), ("zero3_offload", 3, True)])
def test_deepspeed_reads_its_files(name, stage, offload):
    from accelerate import DeepSpeedPlugin

    plugin = DeepSpeedPlugin(hf_ds_config=str(CONFIGS / "deepspeed" / f"{name}.json"))
    assert plugin.zero_stage == stage
    for part in ("optimizer", "param"):
        assert (plugin.deepspeed_config["zero_optimization"].get(f"offload_{part}", {}).get("device") == "cpu") is offload


def arguments(store: Path, out: Path, *more: str) -> list[str]:
    return [
        "pretrain",
        "--config",
        str(TINY),
        "--store",
        str(store),
        "--out",
        str(out),
        "--steps",
        "2",
        "--trackers",
        "[]",
        *more,
    ]


@pytest.fixture(scope="module")
def alone(launch, tiny_store, tmp_path_factory) -> Path:
    """A run of cpu_1."""
    out = tmp_path_factory.mktemp("alone") / "run"
    printed = launch(["--config_file", str(CONFIGS / "accelerate" / "cpu_1.yaml"), *arguments(tiny_store, out)])
    assert "1 process(es) on cpu" in printed
    return out


def same_weights(one: Path, other: Path) -> None:
    states = [hlip.load(run).state_dict() for run in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], atol=1e-4, rtol=0, msg=name)


def test_one_cpu_process(alone):
    assert [row["step"] for row in rows(alone) if math.isfinite(row.get("loss", math.nan))] == [1, 2]
    assert hlip.load(alone).facts["step"] == 2


@pytest.mark.slow
def test_two_cpu_processes(launch, tiny_store, tmp_path, alone):
    file = CONFIGS / "accelerate" / "cpu_2.yaml"
    printed = launch(["--config_file", str(file), *arguments(tiny_store, tmp_path / "run")], ACCELERATE_USE_CPU="true")
    assert "2 process(es) on cpu" in printed
    same_weights(alone, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", names("deepspeed", ".json"))
def test_deepspeed_on_two_processes_equals_one(launch, tiny_store, tmp_path, alone, name):
    """Chunks, a stop and a resume included; ZeRO-3 must cut these small weights too, which it would leave whole."""
    content = json.loads((CONFIGS / "deepspeed" / f"{name}.json").read_text(encoding="utf-8"))
    if content["zero_optimization"]["stage"] == 3:
        content["zero_optimization"]["stage3_param_persistence_threshold"] = 1
    file = tmp_path / "deepspeed.json"
    file.write_text(json.dumps(content))
    command = ["--use_deepspeed", "--num_processes", "2", "--deepspeed_config_file", str(file)]
    more = ("--chunk_studies", "2", "--save_every", "1", "--validation.every", "1")
    printed = launch([*command, *arguments(tiny_store, tmp_path / "run", *more)])
    assert "2 process(es)" in printed
    assert losses(tmp_path / "run") == pytest.approx(losses(alone), abs=1e-4)
    same_weights(alone, tmp_path / "run")
    first = tmp_path / "run" / "checkpoints" / "step-000000001"
    again = (*more, "--resume", str(first))
    launch([*command, *arguments(tiny_store, tmp_path / "again", *again)])
    same_weights(alone, tmp_path / "again")


# SLURM

STUBS = {
    # two "nodes" on this machine, each in a process group of its own, as a job step has
    "srun": """#!/usr/bin/env bash
shift
for node in 0 1; do
    SLURM_NODEID=$node setsid "$@" & echo $! >> "$STUBS/step"; pids+=($!)
done
code=0
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit $code
""",
    "scancel": """#!/usr/bin/env bash
echo "scancel $*" >> "$STUBS/calls"
for pid in $(cat "$STUBS/step"); do kill -USR1 -- "-$pid"; done
""",
    "scontrol": """#!/usr/bin/env bash
if [ "$1" = show ]; then echo 127.0.0.1; echo 127.0.0.1; else echo "scontrol $*" >> "$STUBS/calls"; fi
""",
}


@pytest.fixture
def slurm(tmp_path, free_port):
    """The batch script's environment on a cluster of two nodes that is this machine."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name, text in STUBS.items():
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    python = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": os.pathsep.join([str(stubs), python, os.environ["PATH"]]),
        "STUBS": str(stubs),
        "SLURM_JOB_ID": str(20000 + free_port),
        "SLURM_JOB_NODELIST": "node[0-1]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_SUBMIT_DIR": str(CONFIGS.parent),
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def test_the_batch_script_is_bash():
    ran = subprocess.run(
        ["bash", "-n", str(CONFIGS / "slurm" / "pretrain.sbatch")], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.slow
def test_slurm_stops_a_run_on_two_nodes_requeues_it_and_goes_on(slurm, tiny_store, tmp_path):
    out, calls = tmp_path / "run", Path(slurm["STUBS"]) / "calls"
    words = arguments(tiny_store, out, "--validation.every", "0", "--save_every", "100000")[1:]

    def job(steps: int) -> subprocess.Popen:
        script = [str(CONFIGS / "slurm" / "pretrain.sbatch"), *words, "--steps", str(steps)]
        log = (tmp_path / "log").open("a")
        return subprocess.Popen(["bash", *script], env=slurm, stdout=log, stderr=log, start_new_session=True)

    first = job(100_000)
    try:
        limit = time.monotonic() + 120
        while not (out / "metrics.jsonl").exists() or not losses(out):
            assert first.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < limit, (tmp_path / "log").read_text()
            time.sleep(0.2)
        first.send_signal(signal.SIGUSR1)  # to the batch script alone, as --signal=B:USR1
        assert first.wait(120) == 0, (tmp_path / "log").read_text()
    finally:
        if first.poll() is None:
            for process in Path(slurm["STUBS"], "step").read_text().split():
                os.killpg(int(process), signal.SIGTERM)  # the launchers take their processes with them
            first.wait(60)
    log = (tmp_path / "log").read_text()
    assert "2 process(es) on cpu" in log
    assert "(SIGUSR1); the same command goes on from there" in log
    assert calls.read_text().splitlines() == [
        f"scancel --signal=USR1 {slurm['SLURM_JOB_ID']}",
        f"scontrol requeue {slurm['SLURM_JOB_ID']}",
    ]
    done = hlip.load(out).facts["step"]
    (Path(slurm["STUBS"]) / "step").unlink()

    second = job(done + 2)
    assert second.wait(120) == 0, (tmp_path / "log").read_text()
    assert f"continuing after step {done}" in (tmp_path / "log").read_text()
    assert hlip.load(out).facts["step"] == done + 2
    assert len(calls.read_text().splitlines()) == 2  # not queued again

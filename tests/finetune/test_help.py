"""The help texts: choices are listed, and what is said is said to a user of the command line."""

from __future__ import annotations

import argparse
from typing import get_type_hints

import pytest

from finetune.cli import add_diagnose
from finetune.settings import FinetuneConfig
from hlip.config import parse_config
from hp2l.heads import HeadConfig


def test_options_of_the_head_and_the_loss_need_no_python(capsys):
    assert [name for name, kind in get_type_hints(HeadConfig).items() if kind is str] == []
    with pytest.raises(SystemExit):
        parse_config(FinetuneConfig, command="finetune", description="", argv=["--help"])
    told = " ".join(capsys.readouterr().out.split())
    for option, choices in (
        ("head.kind", "hp2l,flat,linear"),
        ("head.prompt", "none,one_hot"),
        ("loss.direction", "published"),
    ):
        assert f"--{option} {{{choices}" in told
    part = told.rsplit("--loss.level_weights", 1)[1].split("--loss.tau")[0]  # behind the usage
    assert "null: 1 each" in part
    for word in ("HP2LLoss", "edge_consistency", "hp2l.long_tail", "`", "lambda", "None: 1"):
        assert word not in part
    with pytest.raises(SystemExit):
        parse_config(FinetuneConfig, command="finetune", description="", argv=["--head.kind", "round"])
    assert "'flat'" in capsys.readouterr().err


def test_diagnose_says_where_left_is_and_where_dependencies_stand():
    parser = argparse.ArgumentParser()
    add_diagnose(commands := parser.add_subparsers())
    told = commands.choices["diagnose"].description
    assert "the patient's left (L) is on the left" in told
    assert "dependency.csv" in told

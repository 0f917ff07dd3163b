"""A protocol that takes seconds: six rendered people at 16 px, a network of eight channels."""

from __future__ import annotations

from pathlib import Path

RECIPE = """
backbone: {family: small, width: 8}
dim: 16
scale: 16
margin: 0.1
epochs: 2
batch_size: 8
lr: 0.05
precision: fp32
"""

PROTOCOL = """
name: tiny
version: 1
title: six people
resolution: 16
volume: 6x4
real: {world: train, identities: 6, images: 4}
encoder: {recipe: recipe.yaml, seed: 1}
judge: {recipe: recipe.yaml, seed: 2, faces: {world: judge, identities: 6, images: 4}}
recipe: recipe.yaml
benchmarks: [world-mixed]
evaluators:
  verification: {}
  gap_to_real: {}
  separability: {}
"""


def write_protocol(folder: Path) -> None:
    """tiny.yaml and its recipe.yaml, for commands that are run in `folder`."""
    (folder / "tiny.yaml").write_text(PROTOCOL)
    (folder / "recipe.yaml").write_text(RECIPE)

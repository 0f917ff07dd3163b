"""The doors: one command, one function. Nothing here imports torch or MLflow before it is needed, so that --help is instant."""

from synthbench.cli.app import cli, main

__all__ = ["cli", "main"]

"""synthbench: compare generators of synthetic faces by how well recognizers trained on them recognize real faces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synthbench.api import compare, load_runs, load_scores, open_dataset, run

__version__ = "0.1.0"
__all__ = ["__version__", "compare", "load_runs", "load_scores", "open_dataset", "run"]


def __getattr__(name: str) -> Any:
    """The Python API (api.py), imported when it is used: pandas and torch take a while."""
    if name in __all__:
        from synthbench import api

        return getattr(api, name)
    raise AttributeError(f"module 'synthbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

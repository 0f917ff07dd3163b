"""synthbench: compare generators of synthetic faces by how well recognizers trained on them recognize real faces."""

__version__ = "0.1.0"

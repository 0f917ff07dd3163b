"""`synthbench sweep`: a generator over the values of its settings, as an Optuna study of ordinary runs.

settings.py   which setting, which values          shape.py      is there an optimum inside: tests on a curve
design.py     a request, checked                   curve.py      scores, statement and table of the points
trials.py     the study: the only door to Optuna   figure.py     the curve as a picture
work.py       the loop, its processes, the end     forecast.py   --dry-run: the points, and what they come to
"""

from __future__ import annotations

from synthbench.sweep.curve import print_table
from synthbench.sweep.design import Request, design
from synthbench.sweep.forecast import plan
from synthbench.sweep.work import sweep

__all__ = ["Request", "design", "plan", "print_table", "sweep"]

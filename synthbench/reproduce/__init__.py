"""`synthbench reproduce cemiface/table-6`: a table or figure of a paper as runs, with the published numbers beside ours.

definition.py  the YAML files, and their names     work.py  running them
rows.py        rows to requests, plan, costs       page.py  the table `ours | published`, figures, the page
"""

from __future__ import annotations

from synthbench.reproduce.definition import find, tables
from synthbench.reproduce.page import show
from synthbench.reproduce.rows import SCALES, Request, listing, plan_only
from synthbench.reproduce.work import reproduce, requests

__all__ = ["SCALES", "Request", "find", "listing", "plan_only", "reproduce", "requests", "show", "tables"]

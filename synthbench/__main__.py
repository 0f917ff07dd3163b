"""`python -m synthbench` is `synthbench`."""

from synthbench.cli import main

main()

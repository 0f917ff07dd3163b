"""`python -m synthbench` is `synthbench`."""

from synthbench.cli.app import main

main()

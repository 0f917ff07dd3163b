"""From a request to a result: stages with keys, the plan, the run, and many runs for a comparison.

May import: everything but sweep, report, reproduce, cli.
"""

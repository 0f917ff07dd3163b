"""MLflow, as a mirror of the run folders. Only the mirror is entered from outside.

May import: results.
"""

"""What a run leaves behind, what may be compared, the statistics of comparisons, and how tables say it.

May import: the root, data, evaluators.
"""

"""Networks, and how their weights are read and saved. None of them knows a data set or how it is trained.

May import: the root.
"""

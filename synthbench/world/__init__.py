"""The embedded world: rendered people, and the benchmarks made of them, for machines without data.

May import: types, seeds, data.
"""

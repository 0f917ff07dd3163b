"""Faces from files to memory: readers, shards, packed sets, benchmarks, and what is registered on this machine.

May import: the root, models (to look into a checkpoint).
"""

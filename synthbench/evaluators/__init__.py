"""Measures of a set and of the recognizer trained on it; blind to which generator made it.

May import: data, models, plugin.
"""

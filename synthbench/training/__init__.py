"""The loop of a training that can be killed: steps, gradients in parts, the average of weights, two networks against each other.

May import: the root, data, models.
"""

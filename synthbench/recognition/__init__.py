"""Training a face recognizer by a frozen recipe: margins, augmentation, the loop, validation on real pairs.

May import: training and what is below it.
"""

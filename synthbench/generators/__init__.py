"""Methods: one file each, top to bottom like its paper. They know neither each other nor evaluators nor the pipeline.

May import: identities, recognition and what is below them.
"""

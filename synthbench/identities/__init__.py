"""Who is on the images: inquiries, random directions, people from an unconditional model; and the slots of a set.

May import: diffusion, world and what is below them.
"""

"""Diffusion as mathematics: schedules, losses, samplers, latents; and the settings that diffusion generators share.

May import: training and what is below it.
"""

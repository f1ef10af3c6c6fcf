"""CHECKPOINT -> VIDEO: one portrait and one voice become a video of any length."""

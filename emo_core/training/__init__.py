"""CHECKPOINT -> CHECKPOINT: the paper's three stages through one loop."""

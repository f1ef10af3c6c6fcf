"""What the parts cost against the same work done bare: ratios, each timed in one run with its baseline."""

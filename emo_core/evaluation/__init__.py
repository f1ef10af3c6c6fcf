"""Generated videos against ground truth: the metrics of the paper's section 4.2 (see docs/evaluation.md)."""

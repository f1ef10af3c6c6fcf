"""ROW -> SAMPLE: which frames of which clip a training step sees. Reads rows; never writes them."""

"""What work costs: counted without doing it, or taken from the clock."""

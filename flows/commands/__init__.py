"""What `emo` does, command by command; `flows.cli` puts them together. Heavy imports live inside the commands."""

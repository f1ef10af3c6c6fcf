"""How a job starts, and how it is stopped."""

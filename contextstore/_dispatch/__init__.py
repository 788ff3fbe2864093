"""Who goes to the engine with whom, and who is told of it. No SQL, no values."""

"""What the process does to a store: which threads are a store's own, what they log, the GIL, fork and exit."""

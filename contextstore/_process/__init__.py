"""What the process does to a store: whose threads are whose, what they log, the GIL, fork and exit."""

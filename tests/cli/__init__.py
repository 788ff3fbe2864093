"""The command line, and what it looks at stores with."""

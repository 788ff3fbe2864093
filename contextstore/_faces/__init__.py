"""What users call: names, parameters and docstrings."""

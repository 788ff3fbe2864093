"""Ids, arguments and values: checked, encoded, decoded. Pure functions; no I/O."""

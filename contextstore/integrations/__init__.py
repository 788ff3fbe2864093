"""Frameworks that keep their state in a store: a module for each, behind an extra of the framework's name."""

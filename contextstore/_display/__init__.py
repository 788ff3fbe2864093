"""Ids, values, sizes and times for people: in words, short, and safe to show."""

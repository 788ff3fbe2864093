"""A store in one SQLite file, or in memory. All SQL that SQLite is told stands in this folder."""

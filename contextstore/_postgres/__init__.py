"""A store in a schema of a PostgreSQL database. All SQL that PostgreSQL is told stands in this folder."""

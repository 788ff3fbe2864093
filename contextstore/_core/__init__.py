"""What a face holds: the calls' meaning, without their names. No SQL, no threads."""

"""contextstore measured beside its peers, in the same run, as ratios."""

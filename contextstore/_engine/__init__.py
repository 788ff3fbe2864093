"""What an engine is: the contract, its records, and the rules that all engines share. No I/O."""

"""T2I-adapters."""

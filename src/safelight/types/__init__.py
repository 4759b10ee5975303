"""The values and protocols that every floor speaks of."""

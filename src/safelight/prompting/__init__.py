"""The prompt syntax (weights, schedules, composition) as functions of text alone."""

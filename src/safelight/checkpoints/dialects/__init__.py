"""One file a foreign layout; each holds ``DIALECTS``. What there is, is what lies here."""

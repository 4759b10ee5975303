"""What may be done with models and what is kept of it: licences."""

"""What is added to a model without changing its files: small things that others trained for it."""

"""CLIP's image encoders."""

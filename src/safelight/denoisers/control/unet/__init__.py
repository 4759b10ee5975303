"""ControlNet for U-Nets (Zhang et al., arXiv 2302.05543): a copy of the way down and the middle
that sees a picture."""

"""The deep compression autoencoder (Chen et al., arXiv 2410.10733): f32 and f64 by residual
autoencoding.

Each change of size runs beside a shortcut without weights, which moves space into channels and
takes means of them, or repeats channels and moves them into space, so that the layers only learn
what that loses (section 3.2).
"""

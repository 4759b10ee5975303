"""T2I-Adapter (Mou et al., arXiv 2302.08453): a small network that looks at a picture once,
whatever the time, and adds to a U-Net's way down."""

"""The KL and VQ autoencoders."""

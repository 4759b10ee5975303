"""The tiny autoencoder (TAESD by Ollin Boer Bohan, MIT): 1.2 million parameters each way, f8, no
spread.

It shares the latent space of a large family, which its weights decide; used for previews and for
small models.
"""

"""How other programs name and shape the weights of each network, and what they write beside them:
one folder a network."""

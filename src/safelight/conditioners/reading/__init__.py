"""How a text is read before a network sees it: cleaned, weighted, cut into pieces."""

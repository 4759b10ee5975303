"""Texts as token ids: cleaning, tokenizers, vocabularies and chunks of a fixed length."""

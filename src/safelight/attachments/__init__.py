"""What is attached to a loaded model: LoRA and its kin, embeddings, control networks, image prompts."""

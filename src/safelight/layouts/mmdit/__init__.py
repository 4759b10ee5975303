"""The multimodal diffusion transformer of Stable Diffusion 3 and 3.5."""

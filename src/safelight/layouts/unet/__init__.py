"""The U-Net of Stable Diffusion 1, 2 and XL."""

"""Control: networks that look at a picture and add to what a denoiser computes, a folder a kind."""

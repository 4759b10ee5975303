"""ControlNets for the transformers of Stable Diffusion 3 and 3.5: their first blocks once more,
seeing a picture.

Their picture is encoded like those that the model makes. InstantX's take the text; those of
Stability AI for 3.5 large have blocks of patches alone and begin with the first layer of the
transformer itself (Stability-AI/sd3.5).
"""

"""ControlNets for FLUX.1: some blocks of its transformer once more, seeing a picture.

InstantX's and Shakker's (diffusers' ``FluxControlNetModel``) see it encoded like those that the
model makes, and may be taught several kinds of picture, named by a word of its own before the text;
x-labs' see its pixels (XLabs-AI/x-flux).
"""

"""ControlNets of FLUX.1."""

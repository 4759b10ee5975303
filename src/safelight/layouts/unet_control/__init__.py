"""ControlNets for U-Nets."""

"""Files of tensors: checked headers, lazy reading, pickles decoded but never executed, writing.

Reading names, shapes, types and metadata does not import torch.
"""

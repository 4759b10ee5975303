"""How files of weights are read: headers that are checked, tensors when they are asked for, pickles as data."""

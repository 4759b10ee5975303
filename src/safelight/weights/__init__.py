"""Files of weights: headers that are checked, tensors read when they are asked for, pickles decoded as data and never executed."""

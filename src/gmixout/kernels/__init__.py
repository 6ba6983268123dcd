"""How the masked arithmetic runs: functions of tensors and indices alone.

`products.py`: the gradient of a layer's weight or of a part of it. `structures.py`: how a weight is
cut into units. `rounding.py`: rounding that keeps the mean.
"""

"""How the masked arithmetic runs: functions of tensors and indices alone.

`reference.py` is the definition, and what training uses. A kernel that is to be faster stands
beside it and is checked against it: `sampled.py`, which no GPU has run yet.
"""

"""How the masked arithmetic runs: functions of tensors and indices alone.

`reference.py` is the definition, and what training uses.
"""

"""How the masked arithmetic runs: functions of tensors and indices alone.

`reference.py` is the definition. Any faster kernel stands beside it and is checked against it.
"""

"""What is masked and when. Read `process.py` first: it is the method.

masks.py draws the masks, process.py runs the masking process on one weight, layers.py says how each
layer kind reaches it, attach.py puts it on a model.
"""

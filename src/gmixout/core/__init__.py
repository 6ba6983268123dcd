"""What is masked and when. Read `process.py` first: it is the method.

config.py has the settings, masks.py draws the masks, process.py runs the process on one weight,
layers.py says how each layer kind reaches it, attach.py puts it on a model, binding.py ties it to
an optimizer; values, moments, selection, depth, saved and summary serve them.
"""

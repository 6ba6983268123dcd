"""What is masked and when. Read `process.py` first: it is the method.

config.py has the settings, masks.py draws the masks, process.py runs the process on one weight,
residuals.py ends its periods, layers.py connects each layer kind to it, attach.py puts it on a
model, handle.py runs it, binding.py ties it to an optimizer; values, moments, selection, schedule,
saved and summary serve them.
"""

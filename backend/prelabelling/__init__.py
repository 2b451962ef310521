"""Pre-labelling of a whole project by command: `python -m backend prelabel`."""

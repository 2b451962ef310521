"""Refinement of a mask by points and boxes: interactive segmentation on the frozen towers' features."""

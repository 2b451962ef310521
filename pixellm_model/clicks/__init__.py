"""Interactive segmentation on the frozen towers' features: clicks and boxes correct a mask."""

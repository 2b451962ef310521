"""From a prompt in Label Studio to masks: jobs out, regions back."""

"""The whole product on one machine: `python -m demo` starts it, answers one prompt, and stops it."""

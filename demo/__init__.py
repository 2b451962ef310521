"""The whole product on one machine: `python -m demo` starts it, proves it with one prompt, and stops it."""

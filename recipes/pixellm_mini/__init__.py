"""How pixellm-mini was made; README.md lists the steps."""

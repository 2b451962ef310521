"""From a webhook to a correction.

`webhook_inbox` stores events, `jobs` processes them, `collector` applies each: `annotation` reads the
annotator's regions, `compare` compares them with the proposals, and `training_turns` says what the model
should have answered.
"""

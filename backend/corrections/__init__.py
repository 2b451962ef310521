"""From a webhook to a correction: what annotators changed, stored and compared with what was proposed."""

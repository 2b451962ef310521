"""The Label Studio ML backend: answers prompts, stores webhooks, and turns annotations into corrections."""

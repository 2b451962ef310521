"""From a prompt in Label Studio to masks.

`predictor` is where a request enters, `tasks` turns a task into a job, `model_client` gets the job's result
from the workers, and `regions` turns the result into a prediction: there a phrase becomes a label.
"""

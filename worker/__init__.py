"""The GPU's side: jobs, images, the store of corrections and versions, serving and learning."""

"""The GPU's side: job contract, image fetching, the warm engine and its queue."""

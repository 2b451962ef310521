"""Jobs between backend and worker: contract, queue, masks, status of workers. No torch."""

"""Jobs between backend and worker: contract, queue, masks, worker status. No torch."""

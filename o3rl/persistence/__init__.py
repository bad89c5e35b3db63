"""What outlives a process: checkpoints, ledger, lease, recorded batches."""

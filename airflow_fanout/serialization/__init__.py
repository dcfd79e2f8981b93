"""What outlives the Dag file or the process."""

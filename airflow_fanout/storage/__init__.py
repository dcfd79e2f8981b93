"""Items from storage, and results to storage."""

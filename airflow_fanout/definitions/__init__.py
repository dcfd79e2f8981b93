"""What the author declares."""

"""What runs in a task's process."""

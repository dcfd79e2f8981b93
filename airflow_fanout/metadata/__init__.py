"""The code that reads and clears runs in the metadata database."""

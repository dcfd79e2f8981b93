"""Operators and hooks: made when the Dag is parsed, called on the worker."""

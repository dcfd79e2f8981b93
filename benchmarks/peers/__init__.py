"""The same fan-out and fan-in in other orchestrators, each in an environment of its own."""

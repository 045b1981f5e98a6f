"""Functions that a model may call: told to it, and read from its replies."""

"""The chat in the terminal: a Textual app that talks to the worker.

Knows nothing of MLX: the model lives in the worker's process.
"""

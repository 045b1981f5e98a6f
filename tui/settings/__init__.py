"""What a person can choose: for one chat, and for all of them in config.toml.

Knows nothing of the worker: it says what is wanted, and which of it needs the model anew.
"""

"""Where there is no model yet: what this machine can run, and a model that cannot be loaded.

Knows nothing of chats.
"""

"""Routed experts from the SSD: a slab of slots in memory, filled from the model's own files."""

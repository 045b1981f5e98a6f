"""A model's routed experts on the SSD: in slots of memory as far as they have room there."""

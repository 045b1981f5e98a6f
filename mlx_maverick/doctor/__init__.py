"""What this machine is, what fits it and what to change: the facts behind `doctor`."""

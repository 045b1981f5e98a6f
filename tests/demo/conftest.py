"""What trains the demo is tested where it can run: `pip install '.[demo-training]'`."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["test_network.py"]

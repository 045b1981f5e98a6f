"""The demo model: a tiny Llama 4 that sees, trained on a world that is made up here.

`world` makes its conversations and pictures from numbers, `train` trains the model on them.
"""

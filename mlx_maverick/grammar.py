class JsonSchema:
    pass


def constraint(*a):
    raise NotImplementedError

"""What the pool tests run in worker processes."""


def make_hungry():
    """A function that takes so many bytes of memory."""

    def take(count):
        return len(bytearray(count))

    return take

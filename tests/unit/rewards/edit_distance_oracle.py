"""Slow and plain: the whole table of the weighted edit distance."""

IMPORTANT = set("0123456789$€£¥￥₹₩¢")


def distance(a, b, heavy=2.0, important=IMPORTANT):
    """Least cost of turning `a` into `b`, as the definition says it."""

    def weight(char):
        return heavy if char in important else 1.0

    table = [[0.0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        table[i + 1][0] = table[i][0] + weight(x)
    for j, y in enumerate(b):
        table[0][j + 1] = table[0][j] + weight(y)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            change = 0.0 if x == y else max(weight(x), weight(y))
            table[i + 1][j + 1] = min(
                table[i][j] + change, table[i][j + 1] + weight(x), table[i + 1][j] + weight(y)
            )
    return table[-1][-1]


def rate(a, b, heavy=2.0, important=IMPORTANT):
    """Weighted character error rate."""
    if not a:
        return float(bool(b))
    return distance(a, b, heavy, important) / sum(heavy if c in important else 1.0 for c in a)

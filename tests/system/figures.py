"""Size classes, prices and the two statistics that the tests judge by.

Written from docs/PROTOCOL.md and docs/OPERATIONS.md alone, so that the tests do not repeat a mistake of the code.
"""

import math
from collections import Counter

CELL = 16_384
CHUNK = 16_000
MAC = 16

SMALL_CLASSES = [1, 2, 4, 8]
CLASSES = SMALL_CLASSES + [16 << n for n in range(13)]


def class_of(length):
    """Smallest size class, in kilobytes of 1,000 bytes, that holds a plain payload of `length` bytes."""
    return next(kilobytes for kilobytes in CLASSES if kilobytes * 1000 >= length)


def sealed_capacity(kilobytes):
    """Most payload that a sealed body of this class holds: the class less its prefix and one MAC a chunk."""
    size = kilobytes * 1000
    chunks = -(-(size - 16) // CHUNK)
    return size - 16 - chunks * MAC


def price(prices, kilobytes, recipients=1):
    """Price of one message in µtok, every recipient priced alike."""
    return recipients * (prices["message"] + prices["kilobyte"] * kilobytes)


def is_power_of_two(number):
    """Whether a burst of so many cells tells nothing but its power of two."""
    return number > 0 and number & (number - 1) == 0


def chi_square_deviation(data):
    """How many standard deviations the octets of `data` lie from uniform. Noise stays within about 4."""
    expected = len(data) / 256
    counts = Counter(data)
    statistic = sum((counts.get(octet, 0) - expected) ** 2 / expected for octet in range(256))
    return (statistic - 255) / math.sqrt(2 * 255)


def same_distribution(left, right):
    """p of the two-sample Kolmogorov-Smirnov test: how often samples of one source differ at least so much."""
    left, right = sorted(left), sorted(right)
    distance, i, j = 0.0, 0, 0
    while i < len(left) and j < len(right):
        step = min(left[i], right[j])
        while i < len(left) and left[i] == step:
            i += 1
        while j < len(right) and right[j] == step:
            j += 1
        distance = max(distance, abs(i / len(left) - j / len(right)))
    root = math.sqrt(len(left) * len(right) / (len(left) + len(right)))
    scaled = (root + 0.12 + 0.11 / root) * distance
    if scaled < 0.2:
        return 1.0
    terms = ((-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101))
    return min(1.0, max(0.0, 2 * sum(terms)))

"""Search of files and live memory for words that must not be there, in every dress they could wear."""

import base64
import quopri
from pathlib import Path

WINDOW = 4 << 20


class Needle:
    """A word, with all encodings under which a careless program could have kept it."""

    def __init__(self, word):
        self.word = word
        self.dresses = sorted(set(self._encodings()), key=len)
        self.overlap = max(map(len, self.dresses))

    def _encodings(self):
        for text in {self.word, self.word.lower(), self.word.upper()}:
            plain = text.encode()
            yield plain
            yield text.encode("utf-16-le")
            yield text.encode("utf-16-be")
            yield plain.hex().encode()
            yield plain.hex().upper().encode()
            quoted = quopri.encodestring(plain).strip()
            yield quoted
            yield quoted.replace(b"=", b"%")
            if all(ord(letter) < 256 for letter in text):
                yield text.encode("latin-1")
            yield from base64_alignments(plain)

    def within(self, data):
        """The first dress found in `data`, or None."""
        return next((dress for dress in self.dresses if dress in data), None)


class Secret:
    """A key, which is found in one dress alone: its octets."""

    def __init__(self, name, octets):
        self.word, self.octets, self.overlap = name, octets, len(octets)

    def within(self, data):
        return self.octets if self.octets in data else None


def base64_alignments(plain):
    """What is certain of the base64 text of `plain` wherever it lies in the encoded stream."""
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + plain + bytes(-(shift + len(plain)) % 3))
        first = (shift * 8 + 5) // 6
        last = (shift + len(plain)) * 8 // 6
        middle = encoded[first:last]
        if len(middle) >= 8:
            yield middle
            yield middle.translate(bytes.maketrans(b"+/", b"-_"))


def search_files(needles, *places):
    """Every (place, word, dress) found in the files below `places`, in their names too."""
    found = []
    for place in map(Path, places):
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            found += _search_blocks(needles, f"name of {path}", [str(path.name).encode()])
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    found += _search_blocks(needles, str(path), _written(file))
    return found


def _written(file):
    """The blocks of a file but for those of zeros, which is most of a segment that was made ahead; they part needles."""
    for block in iter(lambda: file.read(WINDOW), b""):
        yield block if block.strip(b"\0") else b"\0"


def search_memory(needles, *pids):
    """Every (place, word, dress) found in the writable memory of live processes."""
    found = []
    for pid in pids:
        for name, blocks in memory(pid):
            found += _search_blocks(needles, f"memory of {pid} {name}", blocks)
    return found


def memory(pid):
    """Each writable region of a live process: its name, and its blocks."""
    regions = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights = line.split()[:2]
        if rights.startswith("rw") and "[v" not in line:
            regions.append((span, *(int(end, 16) for end in span.split("-"))))
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as image:
        for span, start, end in regions:
            yield span, _blocks_of_region(image, start, end)


def _blocks_of_region(image, start, end):
    while start < end:
        try:
            image.seek(start)
            block = image.read(min(WINDOW, end - start))
        except (OSError, ValueError):
            return
        if not block:
            return
        start += len(block)
        yield block


def _search_blocks(needles, place, blocks):
    found, tail = [], b""
    overlap = max(needle.overlap for needle in needles)
    missing = list(needles)
    for block in blocks:
        data = tail + block
        for needle in list(missing):
            dress = needle.within(data)
            if dress is not None:
                found.append((place, needle.word, dress))
                missing.remove(needle)
        tail = data[-overlap:]
    return found

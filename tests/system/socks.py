"""A SOCKS5 proxy (RFC 1928, RFC 1929) that knows names which exist nowhere else, and notes who asks for what."""

import socket
import threading

from clients import split_address


class Socks:
    """Serves on a free port until it is left; `places` leads from "name:port" to an address."""

    def __init__(self, places):
        self.places, self.credentials, self.targets = places, [], []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open = []
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.close()
        for stream in self._open:
            try:
                stream.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _serve(self):
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(stream)
            threading.Thread(target=self._talk, args=(stream,), daemon=True).start()

    def _talk(self, stream):
        with stream:
            try:
                self._connect(stream)
            except (OSError, EOFError):
                pass

    def _connect(self, stream):
        version, count = _read(stream, 2)
        methods = _read(stream, count)
        if version != 5 or 2 not in methods:
            stream.sendall(b"\x05\xff")
            return
        stream.sendall(b"\x05\x02")
        _, length = _read(stream, 2)
        user = _read(stream, length)
        password = _read(stream, _read(stream, 1)[0])
        self.credentials.append((user, password))
        stream.sendall(b"\x01\x00")
        _, command, _, kind = _read(stream, 4)
        if command != 1 or kind != 3:
            # Only names: whoever gives an address has resolved one.
            stream.sendall(b"\x05\x08\x00\x01" + bytes(6))
            return
        name = _read(stream, _read(stream, 1)[0]).decode()
        target = f"{name}:{int.from_bytes(_read(stream, 2), 'big')}"
        self.targets.append(target)
        if target not in self.places:
            stream.sendall(b"\x05\x04\x00\x01" + bytes(6))
            return
        with socket.create_connection(split_address(self.places[target])) as onward:
            self._open.append(onward)
            stream.sendall(b"\x05\x00\x00\x01" + bytes(6))
            back = threading.Thread(target=_copy, args=(onward, stream), daemon=True)
            back.start()
            _copy(stream, onward)
            back.join()


def _copy(source, target):
    try:
        while octets := source.recv(65536):
            target.sendall(octets)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def _read(stream, count):
    octets = b""
    while len(octets) < count:
        more = stream.recv(count - len(octets))
        if not more:
            raise EOFError
        octets += more
    return octets

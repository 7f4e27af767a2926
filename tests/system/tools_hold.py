"""The tools themselves: a test that cannot fail shows nothing, so each tool is shown to find what is there."""

import base64
import ctypes
import os
import quopri
import random
import smtplib
import socket
import tempfile
import time
import unittest
from pathlib import Path

import figures
from clients import Talk, split_address
from needles import Needle, search_files, search_memory
from network import WINDOW, common, network
from processes import wait_until
from proxy import DOWN, UP, Proxy
from sink import DROP, Sink


class Figures(unittest.TestCase):
    def test_classes_are_the_smallest_that_hold(self):
        cases = {0: 1, 1000: 1, 1001: 2, 8000: 8, 8001: 16, 16_000: 16, 16_001: 32, 48 << 20: 65_536}
        for length, kilobytes in cases.items():
            self.assertEqual(figures.class_of(length), kilobytes)

    def test_a_sealed_class_loses_its_prefix_and_a_mac_a_chunk(self):
        self.assertEqual(figures.sealed_capacity(1), 1000 - 16 - 16)
        self.assertEqual(figures.sealed_capacity(16), 15_984 - 16)
        self.assertEqual(figures.sealed_capacity(64), 4 * 15_984 - 16)

    def test_noise_is_uniform_and_text_is_not(self):
        self.assertLess(abs(figures.chi_square_deviation(os.urandom(1 << 20))), 6)
        self.assertGreater(figures.chi_square_deviation(os.urandom(1 << 20) + b"a" * 4000), 6)

    def test_kolmogorov_smirnov_tells_a_shift_and_nothing_else(self):
        draw = random.Random(4)
        same = [draw.gauss(0, 1) for _ in range(400)], [draw.gauss(0, 1) for _ in range(400)]
        self.assertGreater(figures.same_distribution(*same), 0.01)
        self.assertLess(figures.same_distribution(same[0], [value + 0.4 for value in same[1]]), 0.001)


class Needles(unittest.TestCase):
    dressed = [
        lambda word: word,
        lambda word: word.lower(),
        lambda word: base64.b64encode(word),
        lambda word: base64.b64encode(b"x" + word + b"yz"),
        lambda word: base64.b64encode(b"xy" + word + b"z"),
        lambda word: base64.urlsafe_b64encode(b"xy" + word),
        lambda word: quopri.encodestring(word),
        lambda word: word.decode().encode("utf-16-le"),
        lambda word: word.decode().encode("utf-16-be"),
        lambda word: word.decode().encode("latin-1"),
        lambda word: word.hex().encode(),
    ]

    def test_a_word_is_found_in_every_dress(self):
        for text in ("Canary-3f9a77c0", "Kanarienvögel-19b2"):
            for number, dress in enumerate(self.dressed):
                with self.subTest(text=text, dress=number), tempfile.TemporaryDirectory() as folder:
                    Path(folder, "file").write_bytes(os.urandom(5000) + dress(text.encode()) + os.urandom(500))
                    self.assertTrue(search_files([Needle(text)], folder))

    def test_a_word_across_two_blocks_is_found(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "file").write_bytes(bytes((4 << 20) - 5) + b"canary-1234" + bytes(100))
            self.assertTrue(search_files([Needle("canary-1234")], folder))

    def test_a_word_that_is_not_there_is_not_found(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "file").write_bytes(os.urandom(1 << 20))
            self.assertEqual(search_files([Needle("canary-1234")], folder), [])

    def test_live_memory_is_read(self):
        half = os.urandom(8).hex()
        kept = ctypes.create_string_buffer(("canary-" + half).encode())
        self.assertTrue(search_memory([Needle("canary-" + half)], os.getpid()))
        del kept


class OutsideWorld(unittest.TestCase):
    def setUp(self):
        self.sink = Sink()
        self.addCleanup(self.sink.stop)

    def send(self, content, recipients=("x@out.test",)):
        with smtplib.SMTP(*split_address(self.sink.address), timeout=5) as client:
            client.sendmail("a@relay.test", list(recipients), content)

    def test_octets_are_kept_as_they_came(self):
        content = b"Subject: x\r\n\r\n.dot\r\n..two\r\n\xff\xfe" + b"y" * 5000 + b"\r\n.\r\n"
        self.send(content)
        self.assertEqual(self.sink.delivered[0].content, content)
        self.assertEqual(self.sink.delivered[0].recipients, ["x@out.test"])

    def test_each_verb_can_be_refused_once(self):
        for verb in ("MAIL", "RCPT", "DATA", "DOT"):
            with self.subTest(verb=verb):
                self.sink.misbehave(verb, "451 4.3.0 later", times=1)
                with self.assertRaises((smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused)):
                    self.send(b"Subject: x\r\n\r\n")
        self.send(b"Subject: x\r\n\r\n")
        self.assertEqual(len(self.sink.delivered), 1)

    def test_a_drop_after_the_dot_is_offered_but_not_delivered(self):
        self.sink.misbehave("DOT", DROP, times=1)
        with self.assertRaises(smtplib.SMTPServerDisconnected):
            self.send(b"Subject: x\r\n\r\n")
        self.assertEqual((len(self.sink.offered), len(self.sink.delivered)), (1, 0))

    def test_one_recipient_alone_can_be_refused(self):
        self.sink.misbehave("RCPT", "550 5.1.1 no", recipient="bad@")
        self.send(b"Subject: x\r\n\r\n", ["good@out.test", "bad@out.test"])
        self.assertEqual(self.sink.delivered[0].recipients, ["good@out.test"])


class OnThePath(unittest.TestCase):
    """The proxy, before a server that returns every octet."""

    def setUp(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.proxy = Proxy("127.0.0.1:%d" % self.listener.getsockname()[1])
        self.addCleanup(self.listener.close)
        self.addCleanup(self.proxy.stop)

    def pair(self):
        talk = Talk(self.proxy.address, timeout=2)
        server, _ = self.listener.accept()
        server.settimeout(2)
        wait_until(lambda: self.proxy.connections, 2)
        self.addCleanup(server.close)
        self.addCleanup(talk.close)
        return talk, server

    def test_everything_is_written_down_with_its_direction(self):
        talk, server = self.pair()
        talk.send(b"question")
        self.assertEqual(server.recv(100), b"question")
        server.sendall(b"answer")
        self.assertEqual(talk.socket.recv(100), b"answer")
        self.assertEqual(self.proxy.connections[0].octets(UP), b"question")
        self.assertEqual(self.proxy.connections[0].octets(DOWN), b"answer")
        self.assertEqual(self.proxy.connections[0].bursts(), [(UP, 8), (DOWN, 6)])

    def test_a_bit_flips_at_its_offset(self):
        self.proxy.flip(UP, 3)
        talk, server = self.pair()
        talk.send(b"abcdef")
        self.assertEqual(server.recv(100), b"abceef")

    def test_a_limit_cuts_to_the_octet(self):
        self.proxy.cut_after(UP, 4)
        talk, server = self.pair()
        talk.send(b"abcdef")
        self.assertIn(server.recv(100), (b"abcd", b""))
        self.assertTrue(talk.ended(2))

    def test_what_is_swallowed_does_not_arrive(self):
        self.proxy.swallow(DOWN)
        talk, server = self.pair()
        server.sendall(b"answer")
        wait_until(lambda: self.proxy.connections[0].counts[DOWN] == 6, 2)
        self.assertFalse(talk.ended(0.2))

    def test_a_partition_cuts_and_refuses_until_healed(self):
        talk, _ = self.pair()
        self.proxy.partition()
        self.assertTrue(talk.ended(2))
        self.assertTrue(Talk(self.proxy.address).ended(2))
        self.proxy.heal()
        self.pair()

    def test_cut_ends_what_is_open(self):
        talk, _ = self.pair()
        self.proxy.cut()
        self.assertTrue(talk.ended(2))
        time.sleep(0.05)
        self.assertEqual(self.proxy.open_connections, [])


class BetweenNodes(unittest.TestCase):
    """A network of nodes: what is cut or parted does not arrive, and a recording holds what crossed a line."""

    def setUp(self):
        self.network = network()
        self.addCleanup(self.network.close)
        if not self.network.listens:
            self.skipTest("there are no network namespaces here")
        self.a, self.b, self.server = (self.network.add(name) for name in ("a", "b", "server"))
        with self.server.inside():
            self.listener = socket.create_server((self.server.address, 7))
        self.addCleanup(self.listener.close)

    def arrives(self, node, octets=b"hello", seconds=1.5):
        """Whether a node reaches the server with this."""
        with node.inside():
            try:
                line = socket.create_connection((self.server.address, 7), seconds)
            except OSError:
                return False
        server, _ = self.listener.accept()
        with line, server:
            server.settimeout(5)
            line.sendall(octets)
            came = b""
            while len(came) < len(octets):
                came += server.recv(1 << 16)
            return came == octets

    def test_nothing_reaches_a_node_that_is_cut_until_it_is_mended(self):
        self.assertTrue(self.arrives(self.a))
        self.network.cut(self.server)
        self.assertFalse(self.arrives(self.a))
        self.network.mend(self.server)
        self.assertTrue(self.arrives(self.a, seconds=10))

    def test_two_that_are_parted_are_heard_by_all_others(self):
        self.network.part(self.a, self.server)
        self.assertFalse(self.arrives(self.a))
        self.assertTrue(self.arrives(self.b, seconds=10))
        self.network.join(self.a, self.server)
        self.assertTrue(self.arrives(self.a, seconds=10))

    def test_a_thread_is_inside_a_node_only_for_as_long_as_it_says(self):
        with self.a.inside(), socket.socket() as there:
            with self.assertRaises(OSError):
                there.bind((self.b.address, 0))
            there.bind((self.a.address, 0))
        with socket.socket() as here, self.assertRaises(OSError):
            here.bind((self.a.address, 0))

    def test_a_recording_holds_each_octet_once_and_in_order(self):
        line, sent = self.network.capture(self.server), random.randbytes(60_000)
        self.assertTrue(self.arrives(self.a, sent))
        wait_until(lambda: sent in line.streams().values(), 10)
        self.assertEqual(len(line.stop().streams()), 1)

    def test_a_run_that_two_texts_share_is_found_wherever_it_lies_and_none_that_is_shorter(self):
        run = random.randbytes(WINDOW)
        for at in range(2 * WINDOW):
            text, other = random.randbytes(at) + run + random.randbytes(3), random.randbytes(37) + run
            self.assertTrue(common(text, other))
            self.assertTrue(common(other, text))
        self.assertEqual(common(b"x" * 50 + run[1:] + b"y" * 50, b"z" * 50 + run[1:] + b"v" * 50), [])

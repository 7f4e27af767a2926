"""Packs on portable media: they run where nothing is installed, are never in two places, and may be pulled out.

What a person carries on a stick is money, keys and mail in one. It has to work in any computer, and a copy of it that
still works would spend the same value twice and seal two messages under one key.
"""

import json
import os
import re
import shutil
import signal
import time
import unittest
from pathlib import Path

from clients import Inbox, curl, deliver, message, submit, swaks
from harness import BINARIES, DOMAIN, OUTSIDE, Bridge, Hazard, World, by_extent, second_implementation, word
from processes import Folder, Process, run, wait_for_port, wait_until

STATIC = BINARIES / "postern-static"
KEYS, VALUE = 500, 50_000_000
PRICES = {"message": 10_000, "kilobyte": 100, "key": 7}
PARTITION = 1 << 20
CHROOT = shutil.which("chroot", path="/usr/sbin:/sbin:/usr/bin:/bin")


def has(*programs):
    return all(shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin") for program in programs)


class Medium(Bridge):
    """A bridge on a medium: its own program, in a root that holds the medium and nothing else."""

    def __init__(self, world, name):
        super().__init__(world.folder.path, name, None)
        self.world, self.root = world, world.folder.path / f"{name}.medium"
        self.data = self.root / "data"

    def issue(self):
        """A pack for it that nobody used yet."""
        pack = self.folder / f"{self.name}.pack"
        self.world.relay.issue(pack, self.passphrase, KEYS, VALUE)
        return pack

    def export(self, *options, check=True):
        ports = ["--smtp", self.smtp, "--imap", self.imap]
        command = [BINARIES / "postern", "keypack", "export", "--client", client(), "--passphrase-file", self.passphrase]
        return run(*command, *ports, *options, check=check)

    def command(self, *words, check=True):
        return run("env", "-i", CHROOT, self.root, "/postern", *words, check=check)

    def start(self, *options, wait=True):
        script = f'exec env -i {CHROOT} "$0" /postern run --passphrase-fd 0 --tick 1 --dial-timeout 3 <"$1"'
        self.process = Process(self.folder, self.name, "sh", "-c", script, self.root, self.passphrase)
        if wait:
            wait_for_port(self.process, self.imap)
            if self.user is None:
                self._learn_login()
        return self


def client():
    """The program for media, without what only a debugger reads."""
    slim = STATIC.with_name("postern-portable")
    if not slim.exists() or slim.stat().st_mtime < STATIC.stat().st_mtime:
        part = slim.with_suffix(f".{os.getpid()}")
        shutil.copy(STATIC, part)
        if has("strip"):
            run("strip", part)
        part.rename(slim)
    return slim


@unittest.skipUnless(STATIC.exists(), "there is no statically linked postern-static beside the programs: tests/run makes one")
@unittest.skipUnless(os.geteuid() == 0, "only root can give a process a root of its own")
class Media(Hazard):
    @staticmethod
    def make():
        return World(holders=("b",), keys=KEYS, value=VALUE, prices=PRICES)

    def setUp(self):
        self.relay, self.sink, self.b = self.world.relay, self.world.sink, self.world.b

    def medium(self, name):
        made = Medium(self.world, name)
        self.addCleanup(lambda: made.process and made.process.kill())
        return made

    def sends_and_receives(self, medium):
        """Both ways by stock clients from outside its root."""
        out, back = word(), word()
        login = {"user": medium.user, "password": medium.password}
        done = swaks(medium.smtp, medium.alias, OUTSIDE, "--header", f"Subject: {out}", **login)
        self.assertEqual(done.returncode, 0, done.stdout)
        wait_until(lambda: self.sink.with_word(out), 30, "the message outside")
        submit(self.b, medium.alias, message(self.b.alias, medium.alias, back))
        uid = wait_until(lambda: self.search(medium, back), 30, "the answer")
        text = curl(f"imap://{medium.imap}/INBOX;UID={uid}", holder=medium)
        self.assertIn(back.encode(), text)

    @staticmethod
    def search(medium, token):
        found = curl(f"imap://{medium.imap}/INBOX", "--request", f"UID SEARCH SUBJECT {token}", holder=medium)
        return found.decode().replace("* SEARCH", "").strip()

    def identity(self, medium):
        return medium.settled()["identifier"]


class Runs(Media):
    def test_a_medium_runs_in_an_empty_root_and_adjusts_its_value(self):
        medium = self.medium("stick")
        medium.export("--portable", medium.root, "--pack", medium.issue())
        self.assertEqual(sorted(path.name for path in medium.root.iterdir()), ["README.txt", "data", "postern", "start"])
        medium.start()
        before = medium.settled()
        self.sends_and_receives(medium)
        after = wait_until(
            lambda: (now := medium.settled())["balance"] < before["balance"] and now, 20, "the value to move"
        )
        debits = before["balance"] - after["balance"]
        self.assertEqual(debits % (PRICES["message"] + PRICES["kilobyte"]) % PRICES["key"], 0)
        # Pulled out: what it says of itself afterwards is what it said before.
        medium.kill()
        self.assertEqual(sorted(path.name for path in medium.root.iterdir()), ["README.txt", "data", "postern", "start"])
        medium.start()
        again = medium.settled()
        self.assertEqual(again["identifier"], before["identifier"])
        key = after["balance"] - again["balance"]
        self.assertIn(key, range(0, 10 * PRICES["key"]))
        self.sends_and_receives(medium)
        self.relay.audit()

    def test_the_start_script_runs_it_from_memory_where_the_medium_may_not_be_executed(self):
        medium = self.medium("noexec")
        medium.export("--portable", medium.root, "--pack", medium.issue())
        (medium.root / "postern").chmod(0o644)
        scratch = Folder()
        environment = {"XDG_RUNTIME_DIR": str(scratch.path), "HOME": "/nonexistent"}
        script = 'exec sh "$0"/start run --passphrase-fd 0 --tick 1 --dial-timeout 3 <"$1"'
        command = ["sh", "-c", script, medium.root, medium.passphrase]
        medium.process = Process(medium.folder, "noexec", *command, environment=environment)
        wait_for_port(medium.process, medium.imap)
        medium.command = lambda *words, check=True: run("sh", medium.root / "start", *words, check=check)
        medium._learn_login()
        self.sends_and_receives(medium)
        medium.command("status")
        os.killpg(medium.process.pid, signal.SIGTERM)
        medium.process.wait()
        self.assertEqual(list(scratch.path.iterdir()), [])

    def test_a_program_that_needs_libraries_is_refused_with_the_way_to_one_that_does_not(self):
        medium = self.medium("dynamic")
        pack = medium.issue()
        before = pack.read_bytes()
        done = run(
            BINARIES / "postern", "keypack", "export", "--portable", medium.root, "--pack", pack,
            "--passphrase-file", medium.passphrase, check=False,
        )  # fmt: skip
        self.assertEqual((done.returncode, medium.root.exists()), (1, False))
        self.assertIn("crt-static", done.stderr)
        self.assertEqual(pack.read_bytes(), before)


class Moves(Media):
    def test_a_used_pack_is_in_one_place_at_a_time(self):
        home = self.world.add("mover", KEYS, VALUE)
        token = word()
        submit(self.b, home.alias, message(self.b.alias, home.alias, token))
        Inbox(home).wait_for(token)
        identifier = home.settled()["identifier"]
        medium = self.medium("moved")
        medium.passphrase, medium.smtp, medium.imap = home.passphrase, home.smtp, home.imap
        run("sed", "-i", f"s/127.0.0.1:1025/{home.smtp}/;s/127.0.0.1:1143/{home.imap}/;/^page/d", home.data / "bridge.toml")
        refused = medium.export("--portable", medium.root, "--dir", home.data, check=False)
        self.assertIn("stop its bridge first", refused.stderr)
        home.stop()
        medium.export("--portable", medium.root, "--dir", home.data)
        self.assertLessEqual({path.name for path in home.data.iterdir()}, {"lock", "control.sock"})
        medium.start()
        self.assertEqual(self.identity(medium), identifier)
        self.assertEqual(len(Inbox(medium).wait_for(token)), 1)
        self.sends_and_receives(medium)
        medium.stop()
        run(BINARIES / "postern", "keypack", "import", "--portable", medium.root, "--dir", home.data)
        home.start()
        self.assertEqual(home.settled()["identifier"], identifier)
        self.assertEqual(len(Inbox(home).wait_for(token)), 1)
        refused = medium.command("run", "--passphrase-file", "/none", check=False)
        self.assertEqual(refused.returncode, 1)
        home.stop()

    def test_a_move_that_is_killed_anywhere_goes_on_to_the_same_medium(self):
        home = self.world.add("killed", KEYS, VALUE)
        identifier = home.settled()["identifier"]
        home.stop()
        medium = self.medium("goes-on")
        medium.passphrase, medium.smtp, medium.imap = home.passphrase, home.smtp, home.imap
        run("sed", "-i", f"s/127.0.0.1:1025/{home.smtp}/;s/127.0.0.1:1143/{home.imap}/;/^page/d", home.data / "bridge.toml")
        command = [BINARIES / "postern", "keypack", "export", "--client", client(), "--portable", medium.root]
        for milliseconds in range(5, by_extent(60, 400), 5):
            process = Process(medium.folder, "export", *command, "--dir", home.data)
            time.sleep(milliseconds / 1000)
            process.kill()
            headers = [place for place in (home.data, medium.data) if (place / "header").exists()]
            self.assertLessEqual(len(headers), 1)
            if headers == [medium.data]:
                break
        else:
            run(*command, "--dir", home.data)
        run(*command, "--dir", home.data, check=False)
        self.assertLessEqual({path.name for path in home.data.iterdir()}, {"lock", "control.sock"})
        medium.start()
        self.assertEqual(self.identity(medium), identifier)


class Images(Media):
    @unittest.skipUnless(has("mdir", "mcopy", "fsck.fat"), "mtools and dosfstools are not installed")
    def test_an_image_is_read_by_stock_tools_and_its_client_runs(self):
        medium = self.medium("image")
        image = medium.folder / "stick.img"
        medium.export("--image", image, "--pack", medium.issue())
        self.assertEqual([path.name for path in medium.folder.glob("stick.img*")], ["stick.img"])
        table = run("fdisk", "-l", image).stdout if has("fdisk") else "FAT32 2048"
        self.assertRegex(table, r"2048 .*FAT32|FAT32 2048")
        listing = run("mdir", "-b", "-i", f"{image}@@{PARTITION}", "::").stdout
        for name in ("postern", "start", "README.txt", "data"):
            self.assertIn(f"::/{name}", listing)
        partition = medium.folder / "partition"
        run("dd", f"if={image}", f"of={partition}", "bs=1M", "skip=1", "status=none")
        checked = run("fsck.fat", "-n", "-v", partition, check=False)
        self.assertEqual(checked.returncode, 0, checked.stdout)
        medium.root.mkdir()
        run("mcopy", "-s", "-i", f"{image}@@{PARTITION}", "::/", medium.root)
        self.assertEqual((medium.root / "postern").read_bytes(), client().read_bytes())
        (medium.root / "postern").chmod(0o755)
        medium.start()
        self.sends_and_receives(medium)

    @unittest.skipUnless(has("losetup"), "losetup is not installed")
    def test_an_image_is_mounted_by_the_kernel_and_used_in_place(self):
        medium = self.medium("mounted")
        image = medium.folder / "mounted.img"
        medium.export("--image", image, "--pack", medium.issue())
        medium.root.mkdir()
        if run("mount", "-t", "vfat", "-o", f"loop,offset={PARTITION}", image, medium.root, check=False).returncode:
            self.skipTest("this kernel mounts no vfat from a file")
        self.addCleanup(lambda: run("umount", "-l", medium.root))
        medium.start()
        self.sends_and_receives(medium)
        medium.kill()
        medium.start()
        self.sends_and_receives(medium)
        medium.kill()


class PulledOut(Media):
    """A file system for sticks, without sockets, owners and a journal, that is pulled out while mail passes."""

    def plug(self, medium, image):
        medium.root.mkdir(exist_ok=True)
        device = run("losetup", "-f", "--show", image).stdout.strip()
        run("mount.exfat-fuse", device, medium.root)
        return device

    @staticmethod
    def pull(medium, device):
        wait_until(lambda: not run("umount", medium.root, check=False).returncode, 20, "an unmounted medium")
        run("losetup", "-d", device)

    @unittest.skipUnless(has("losetup", "mount.exfat-fuse", "mkfs.exfat"), "exfat-fuse and exfatprogs are not installed")
    def test_nothing_acknowledged_is_lost_when_the_medium_is_pulled_out(self):
        medium = self.medium("pulled")
        image = medium.folder / "pulled.img"
        with image.open("wb") as file:
            file.truncate(256 << 20)
        run("mkfs.exfat", image)
        device = self.plug(medium, image)
        try:
            medium.export("--portable", medium.root, "--pack", medium.issue())
            sent, received = [], []
            for _ in range(by_extent(4, 25)):
                medium.start()
                for _ in range(3):
                    out, back = word(), word()
                    submit(medium, OUTSIDE, message(medium.alias, OUTSIDE, out))
                    sent.append(out)
                    deliver(self.relay.mx, OUTSIDE, medium.alias, message(OUTSIDE, medium.alias, back))
                    received.append(back)
                # Nothing is flushed for it: the processes stop between two instructions, and what is in the image counts.
                os.killpg(medium.process.pid, signal.SIGSTOP)
                snapshot = image.with_suffix(".now")
                shutil.copy(image, snapshot)
                medium.kill()
                self.pull(medium, device)
                snapshot.rename(image)
                device = self.plug(medium, image)
            medium.start()
            medium.settled()
            inbox = Inbox(medium)
            for token in received:
                self.assertEqual(len(inbox.wait_for(token)), 1)
            for token in sent:
                wait_until(lambda token=token: self.sink.with_word(token), 30, "a message outside")
                self.assertEqual(len(self.sink.with_word(token)), 1)
            medium.kill()
            self.relay.audit()
        finally:
            if medium.process:
                medium.process.kill()
            self.pull(medium, device)


class Managed(unittest.TestCase):
    """What is done with packs beside using them."""

    @classmethod
    def setUpClass(cls):
        cls.world = World(holders=(), keys=KEYS, value=VALUE, prices=PRICES)
        cls.addClassCleanup(cls.world.close)

    def pack(self, name):
        bridge = Bridge(self.world.folder.path, name, self.world.relay.link)
        pack = self.world.folder.path / f"{name}.pack"
        self.world.relay.issue(pack, bridge.passphrase, KEYS, VALUE)
        return bridge, pack

    @staticmethod
    def keypack(*words, check=True):
        return run(BINARIES / "postern", "keypack", *words, check=check)

    def inspect(self, pack, passphrase, check=True):
        return self.keypack("inspect", pack, "--passphrase-file", passphrase, "--json", check=check)

    def test_a_pack_is_looked_at_without_a_change_or_a_secret(self):
        bridge, pack = self.pack("seen")
        before = pack.read_bytes()
        seen = json.loads(self.inspect(pack, bridge.passphrase).stdout)
        self.assertEqual((seen["keys"], seen["domain"], seen["damaged"]), (KEYS, DOMAIN, []))
        self.assertEqual(seen["relay"], self.world.relay.link)
        root = second_implementation().open_pack(before, bridge.passphrase.read_text().strip().encode())["root"]
        self.assertNotIn(root.hex(), json.dumps(seen))
        self.assertEqual(pack.read_bytes(), before)
        self.keypack("inspect", pack, "--sealed")

    def test_bad_packs_are_refused_with_a_sentence_each_and_not_changed(self):
        bridge, pack = self.pack("bad")
        whole = pack.read_bytes()
        damages = {
            "no pack": b"x" * len(whole),
            "cut off": whole[:9000],
            "newer": whole[:8] + b"\x09" + whole[9:4104] + b"\x09" + whole[4105:],
            "forged": whole[:8292] + b"forged" + whole[8298:12388] + b"forged" + whole[12394:],
            "does not open": whole[:70] + b"forged" + whole[76:4166] + b"forged" + whole[4172:],
        }
        for words, content in damages.items():
            with self.subTest(words):
                pack.write_bytes(content)
                refused = self.inspect(pack, bridge.passphrase, check=False)
                self.assertEqual(refused.returncode, 1)
                self.assertIn(words, refused.stderr)
                self.assertEqual(len(refused.stderr.strip().splitlines()), 1)
                self.assertEqual(pack.read_bytes(), content)
        pack.write_bytes(whole[:8202] + b"damage" + whole[8208:])
        self.assertEqual(json.loads(self.inspect(pack, bridge.passphrase).stdout)["damaged"], ["first issue"])

    def test_a_passphrase_is_changed_before_and_after_a_pack_is_taken_in(self):
        bridge, pack = self.pack("renamed")
        old, new = bridge.passphrase, bridge.passphrase.with_suffix(".new")
        new.write_text("another\n")

        def change(place, now, then):
            return self.keypack("passphrase", place, "--passphrase-file", now, "--new-passphrase-file", then)

        change(pack, old, new)
        self.assertIn("does not open", self.inspect(pack, old, check=False).stderr)
        self.inspect(pack, new)
        bridge.passphrase = new
        bridge.init(pack)
        change(bridge.data, new, old)
        bridge.passphrase = old
        bridge.start()
        bridge.settled()
        bridge.stop()
        listed = json.loads(self.keypack("list", bridge.data, "--passphrase-file", old, "--json").stdout)["packs"][0]
        self.assertEqual((listed["relay"], listed["identifier"]), (DOMAIN, bridge.identifier))
        self.assertLess(listed["balance"], VALUE)
        self.assertIn("another passphrase", self.keypack("list", bridge.data, "--passphrase-file", new).stdout)

    def test_a_wiped_store_is_gone_though_its_bridge_runs(self):
        bridge, pack = self.pack("wiped")
        bridge.init(pack)
        bridge.start()
        slots = (bridge.data / "slots").read_bytes()
        self.assertEqual(self.keypack("panic-wipe", bridge.data, check=False).returncode, 1, "nobody agreed")
        done = self.keypack("panic-wipe", "--yes", bridge.data, pack)
        self.assertIn("Not reached", done.stdout)
        self.assertFalse(pack.exists())
        self.assertLessEqual({path.name for path in bridge.data.iterdir()}, {"lock", "control.sock"})
        self.assertEqual(bridge.process.wait(), 0)
        self.assertTrue(any(slots))
        letter = self.world.folder.path / "photograph"
        letter.write_bytes(b"x" * 9000)
        self.assertIn("no pack", self.keypack("panic-wipe", "--yes", letter, check=False).stderr)
        self.assertTrue(letter.exists())

    @unittest.skipUnless(has("zbarimg"), "zbar-tools is not installed")
    def test_a_printed_pack_is_scanned_and_used(self):
        bridge, pack = self.pack("printed")
        shown = self.keypack("print", pack, "--passphrase-file", bridge.passphrase).stdout
        page = self.world.folder.path / "page.html"
        self.keypack("print", pack, "--passphrase-file", bridge.passphrase, "--html", page)
        self.assertEqual(page.read_text().count("<svg"), 8)
        pictures = [picture(code) for code in re.split(r"\d of \d\n", shown)[1:]]
        scanned = self.world.folder.path / "scanned.txt"
        lines = []
        for number, content in enumerate(pictures):
            path = self.world.folder.path / f"code{number}.pgm"
            path.write_bytes(content)
            lines.append(run("zbarimg", "--quiet", "--raw", path).stdout)
        copy = self.world.folder.path / "copy.pack"
        scanned.write_text("".join(lines[1:]))
        refused = self.keypack("read", scanned, "--out", copy, check=False)
        self.assertIn("missing: 1", refused.stderr)
        scanned.write_text("".join(reversed(lines)))
        self.keypack("read", scanned, "--out", copy)
        self.assertEqual(copy.read_bytes()[:12288], pack.read_bytes()[:12288])
        pack.unlink()
        bridge.init(copy)
        bridge.start()
        bridge.settled()
        bridge.stop()
        again = self.keypack("print", copy, "--passphrase-file", bridge.passphrase, check=False)
        self.assertIn("taken in", again.stderr)


def picture(code):
    """A code of half blocks, light on a dark ground, as a grey picture."""
    rows = []
    for line in code.strip("\n").splitlines():
        rows.append([character in "█▀" for character in line])
        rows.append([character in "█▄" for character in line])
    width = max(map(len, rows))
    scale, edge = 4, 6
    white = [255] * ((width + 2 * edge) * scale)
    lines = [white] * (edge * scale)
    for row in rows:
        row = [True] * edge + row + [True] * (width - len(row)) + [True] * edge
        lines += [[255 if light else 0 for light in row for _ in range(scale)]] * scale
    lines += [white] * (edge * scale)
    head = f"P5 {len(white)} {len(lines)} 255\n".encode()
    return head + b"".join(bytes(line) for line in lines)


@unittest.skipUnless(os.geteuid() == 0 and has("mkfs.btrfs", "mount"), "only root can mount, and btrfs-progs are needed")
class Disks(unittest.TestCase):
    def test_a_file_system_that_keeps_what_was_overwritten_is_named_at_the_start_and_in_the_status(self):
        folder = Folder()
        image, mounted = folder.path / "image", folder.path / "mounted"
        mounted.mkdir()
        with image.open("wb") as file:
            file.truncate(512 << 20)
        run("mkfs.btrfs", "-q", image)
        if run("mount", "-o", "loop", image, mounted, check=False).returncode:
            self.skipTest("this kernel mounts no btrfs from a file")
        self.addCleanup(lambda: run("umount", "-l", mounted))

        class Elsewhere(World):
            def prepare(self):
                (mounted / "relay").mkdir(mode=0o700)
                (mounted / "a").mkdir(mode=0o700)
                (self.folder.path / "relay").symlink_to(mounted / "relay")
                (self.folder.path / "a").symlink_to(mounted / "a")

        world = Elsewhere(holders=("a",), keys=KEYS, value=VALUE)
        self.addCleanup(world.close)
        self.assertIn("btrfs", world.a.status()["disk"])
        self.assertIn("btrfs", world.a.command("status").stdout)
        for process in (world.a.process, world.relay.process):
            self.assertEqual(process.log.read_text().count("btrfs"), 1)
        checked = run(BINARIES / "posternd", "check", "--config", world.relay.config, check=False)
        self.assertIn("btrfs", checked.stdout)
        world.a.kill()
        world.relay.kill()

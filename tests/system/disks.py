"""Disks that can be filled, cut off or made to fail: ext4 in a file behind a loop device, and faults put before libc."""

import atexit
import fcntl
import functools
import os
import shutil
import struct
import subprocess
import tempfile
import unittest
from pathlib import Path

from harness import World
from processes import run, wait_until

MIB = 1 << 20
# _IOR('X', 125, __u32) of the kernel's fs/ext4/ioctl.h; 2: what the journal has not written out is lost with the rest.
EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2
# Seconds between commits of the journal by itself: far apart, so that only what a program synced outlives a cut.
JOURNAL_S = 300


class LoopDisk:
    """An ext4 of its own on a folder. Only what was synced outlives `cut`, as when the plug is pulled.

    The image lies beside the folder's tree in a file; what the loop device wrote to it stays, so the write cache of a
    real disk, which a flush empties, is not part of this.
    """

    mounted = set()

    def __init__(self, folder, mebibytes, options="errors=continue"):
        self.folder = Path(folder)
        self.image = self.folder.with_name(self.folder.name + ".img")
        self.options = f"loop,commit={JOURNAL_S},{options}"
        with self.image.open("wb") as image:
            image.truncate(mebibytes * MIB)
        run("mkfs.ext4", "-q", "-F", "-m", 0, "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image)
        self.folder.mkdir(mode=0o700)
        self.mount()
        (self.folder / "lost+found").rmdir()
        self.folder.chmod(0o700)

    def mount(self):
        run("mount", "-o", self.options, self.image, self.folder)
        LoopDisk.mounted.add(self)

    def unmount(self):
        """Unmounts once the processes that were killed have let go."""
        wait_until(lambda: not run("umount", self.folder, check=False).returncode, 20, f"an unmounted {self.folder}")
        LoopDisk.mounted.discard(self)

    def remount(self):
        """Unmounts and mounts: what the journal holds is replayed, what was not written is gone."""
        self.unmount()
        self.mount()

    def cut(self):
        """From this instant nothing more reaches the disk, and everything that had not is lost."""
        root = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(root, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(root)

    def fail(self):
        """The file system finds itself damaged; with `errors=remount-ro` it is read-only from now on."""
        device = run("findmnt", "-n", "-o", "SOURCE", self.folder).stdout.strip()
        Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("a test")

    @property
    def free(self):
        """Bytes that can still be written."""
        space = os.statvfs(self.folder)
        return space.f_bavail * space.f_frsize

    def fill(self, leave):
        """Takes all space but `leave` bytes, nearly: a file system needs a few blocks to hold the filler itself."""
        filler = os.open(self.folder / "filler", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            end, step = os.fstat(filler).st_size, 64 * MIB
            while step >= 4096:
                want = min(step, self.free - leave)
                if want < 4096:
                    break
                try:
                    os.posix_fallocate(filler, end, want)
                    end += want
                except OSError:
                    step //= 2
        finally:
            os.close(filler)

    def empty(self):
        """Gives back what `fill` took."""
        (self.folder / "filler").unlink()

    def remove(self):
        if self in LoopDisk.mounted:
            self.unmount()
        self.image.unlink(missing_ok=True)


@atexit.register
def unmount_all():
    """What a test that was stopped left mounted; by then its processes are gone."""
    for disk in list(LoopDisk.mounted):
        subprocess.run(["umount", "-l", disk.folder], capture_output=True)


@functools.cache
def why_no_loop_disk():
    """Why there are no disks of our own on this machine; empty if there are."""
    if os.geteuid() != 0:
        return "not root"
    missing = [tool for tool in ("mkfs.ext4", "mount", "umount", "findmnt") if not shutil.which(tool)]
    if missing:
        return f"no {missing[0]}"
    folder = Path(tempfile.mkdtemp(prefix="postern-test-"))
    try:
        disk = LoopDisk(folder / "disk", 16)
        disk.cut()
        disk.remove()
    except (AssertionError, OSError) as reason:
        return str(reason)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ""


@functools.cache
def why_no_faults():
    """Why no faults can be put before libc here; empty if they can."""
    return "" if shutil.which("cc") else "no C compiler"


needs_loop_disks = unittest.skipIf(why_no_loop_disk(), f"not run: no loop-mounted ext4 here: {why_no_loop_disk()}")
needs_faults = unittest.skipIf(why_no_faults(), f"not run: {why_no_faults()}")


class Faults:
    """Faults of all files whose path begins with `under`, for programs that are started with `environment`."""

    READ_ONLY, ERROR, LIE, NONE = b"r", b"e", b"l", b"-"

    def __init__(self, folder, under):
        library, self._control = folder / "faults.so", folder / "faults"
        run("cc", "-shared", "-fPIC", "-O1", "-o", library, Path(__file__).with_name("disk_faults.c"))
        self._control.write_bytes(Faults.NONE)
        self.environment = {
            "LD_PRELOAD": str(library),
            "DISK_FAULTS": str(self._control),
            "DISK_FAULTS_UNDER": str(under),
        }

    def strike(self, fault):
        """From now on `fault`."""
        with self._control.open("r+b") as control:
            control.write(fault)


class OwnDisks(World):
    """A world in which the relay and the holder `a` have a disk each, mounted with `options`."""

    MEBIBYTES = 1024

    def __init__(self, options="errors=continue", **settings):
        self._options = options
        super().__init__(**settings)

    def prepare(self):
        folder = self.folder.path
        self.disks = {name: LoopDisk(folder / name, self.MEBIBYTES, self._options) for name in ("relay", "a")}

    def close(self):
        for process in (*self.bridges, self.relay):
            process.kill()
        for disk in self.disks.values():
            disk.remove()
        super().close()

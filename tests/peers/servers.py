"""The peers, each with a configuration, a folder and processes of its own.

Every setting is as shipped, save those that would slow a peer for reasons of these tests alone: no look-ups, no limits
for one client, no pauses, a log in a file. What makes mail durable is as shipped.
"""

import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

os.environ["PATH"] += ":/usr/sbin:/sbin"
NOBODY = pwd.getpwnam("nobody")


def missing():
    """Debian packages of the peers that are not installed."""
    wanted = {
        "postfix": shutil.which("postfix"),
        "dovecot-imapd": os.path.exists("/usr/lib/dovecot/imap"),
        "postgresql": glob.glob("/usr/lib/postgresql/*/bin/pgbench"),
    }
    return [package for package, found in wanted.items() if not found]


def run(*command, **options):
    """Runs a command to its end. Through a file, not a pipe: a daemon that it leaves behind would hold the pipe open."""
    with tempfile.TemporaryFile("w+") as said:
        done = subprocess.run([str(word) for word in command], stdout=said, stderr=subprocess.STDOUT, **options)
        said.seek(0)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: {said.read()}")
        return said.read()


def wait_for_port(port, what):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{what} does not answer at port {port}")


def process_id(path):
    """What a daemon wrote as its first word; it may be written after the port is open."""
    for _ in range(200):
        if path.exists() and (words := path.read_text().split()):
            return int(words[0])
        time.sleep(0.05)
    raise RuntimeError(f"no process wrote {path}")


class Postfix:
    """`accept` discards what it has queued; `relay` hands it on to `sink`; `maildir` delivers it into one Maildir;
    `neighbour` does that for post.test under TLS, and hands mail for relay.test on to port `sink`."""

    MODES = {
        "accept": "default_transport = discard:",
        "relay": "relayhost = [127.0.0.1]:{sink}",
        "maildir": "virtual_mailbox_domains = peer.test\nvirtual_mailbox_base = {folder}/mail\n"
        "virtual_mailbox_maps = static:box/\nvirtual_uid_maps = static:{uid}\nvirtual_gid_maps = static:{gid}\n"
        "virtual_minimum_uid = 1",
        "neighbour": "virtual_mailbox_domains = post.test\nvirtual_mailbox_base = {folder}/mail\n"
        "virtual_mailbox_maps = static:box/\nvirtual_uid_maps = static:{uid}\nvirtual_gid_maps = static:{gid}\n"
        "virtual_minimum_uid = 1\nsmtpd_tls_security_level = may\nsmtpd_tls_loglevel = 1\n"
        "smtpd_tls_chain_files = {certificate.key}, {certificate.chain}\n"
        "smtp_tls_security_level = may\ntransport_maps = inline:{{relay.test=smtp:[127.0.0.1]:{sink}}}\n"
        "smtpd_recipient_restrictions = check_recipient_access inline:{{{{stranger.test = 550 5.1.1 no such user}}}}",
    }
    # The services that these ways take; each line as in the master.cf that Debian ships, without chroot.
    SERVICES = """
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
smtp unix - - n - - smtp
relay unix - - n - - smtp
virtual unix - n n - - virtual
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""

    def __init__(self, folder, port, mode, sink=0, certificate=None):
        self.folder, self.port = folder, port
        for name in ("etc", "queue", "data", "mail"):
            (folder / name).mkdir(parents=True)
        shutil.chown(folder / "data", "postfix")
        shutil.chown(folder / "mail", NOBODY.pw_uid, NOBODY.pw_gid)
        uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
        way = self.MODES[mode].format(sink=sink, folder=folder, uid=uid, gid=gid, certificate=certificate)
        (folder / "etc/main.cf").write_text(f"""compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
myhostname = mx.peer.test
mydestination =
alias_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_dns_support_level = disabled
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
in_flow_delay = 0
default_process_limit = 200
{way}
""")
        (folder / "etc/master.cf").write_text(f"127.0.0.1:{port} inet n - n - - smtpd{self.SERVICES}")
        run("postfix", "-c", folder / "etc", "start")
        wait_for_port(port, "Postfix")
        self.pid = process_id(folder / "queue/pid/master.pid")

    def queued(self):
        """Messages that it still has."""
        queues = (self.folder / "queue" / name for name in ("incoming", "active", "deferred", "maildrop"))
        return sum(len(files) for queue in queues for _, _, files in os.walk(queue))

    def drain(self):
        while self.queued():
            time.sleep(0.02)

    def mails(self):
        box = self.folder / "mail/box/new"
        return len(os.listdir(box)) if box.exists() else 0

    def stop(self):
        run("postfix", "-c", self.folder / "etc", "stop")


class Dovecot:
    """One user with a mailbox in mdbox format."""

    USER = "box"

    def __init__(self, folder, port):
        self.folder, self.port = folder, port
        for name in ("run", "mail"):
            (folder / name).mkdir(parents=True)
        shutil.chown(folder / "mail", NOBODY.pw_uid, NOBODY.pw_gid)
        (folder / "conf").write_text(f"""base_dir = {folder}/run
state_dir = {folder}/run
log_path = {folder}/log
protocols = imap
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
first_valid_uid = 1
first_valid_gid = 1
mail_location = mdbox:{folder}/mail/%u
mail_max_userip_connections = 10000
default_vsz_limit = 0
namespace inbox {{
  inbox = yes
}}
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = uid={NOBODY.pw_uid} gid={NOBODY.pw_gid} home={folder}/mail/%u
}}
service imap-login {{
  client_limit = 1000
  process_min_avail = 1
  service_count = 0
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
""")
        run("dovecot", "-c", folder / "conf")
        wait_for_port(port, "Dovecot")
        self.pid = process_id(folder / "run/master.pid")

    def stop(self):
        run("doveadm", "-c", self.folder / "conf", "stop")


class Postgres:
    """A table of 4 KiB values, not compressed."""

    def __init__(self, folder):
        self.folder, self.programs = folder, Path(sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1])
        folder.mkdir()
        shutil.chown(folder, "postgres")
        self._run("initdb", "-D", folder / "data", "-A", "trust", "-U", "bench")
        options = f"-k {folder} -c listen_addresses= -c shared_buffers=1GB -c max_wal_size=8GB"
        options += " -c max_connections=300 -c fsync=on -c synchronous_commit=on"
        self._run("pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log", "-o", options, "start")
        self._sql("create table kept (id bigserial primary key, value bytea not null)")
        self._sql("alter table kept alter value set storage external")
        self.pid = process_id(folder / "data/postmaster.pid")

    def _run(self, program, *words):
        user = [] if os.geteuid() else ["runuser", "-u", "postgres", "--"]
        return run(*user, self.programs / program, *words, cwd=self.folder)

    def _sql(self, statement):
        return self._run("psql", "-h", self.folder, "-U", "bench", "-d", "postgres", "-qAtc", statement)

    def insert(self, rows, connections, seconds):
        """Rows a second that were durable when they were answered, so many in each transaction."""
        self._sql("truncate kept")
        self._sql("checkpoint")
        script = self.folder / f"{rows}.sql"
        if not script.exists():
            values = ",".join(f"('\\x{os.urandom(4096).hex()}')" for _ in range(rows))
            script.write_text(f"insert into kept (value) values {values};\n")
            script.chmod(0o644)
        words = ["-n", "-h", self.folder, "-U", "bench", "-M", "simple", "-f", script, "-c", connections]
        words += ["-j", min(2, connections), "-T", seconds, "postgres"]
        lines = self._run("pgbench", *words).splitlines()
        rate = next(line.split()[2] for line in lines if line.startswith("tps"))
        return float(rate) * rows

    def stop(self):
        self._run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "stop")

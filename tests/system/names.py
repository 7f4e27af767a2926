"""A real name server (Knot DNS) with zones of the test's own, and certificates for the hosts in them."""

import shutil
import socket
import ssl
import struct
import subprocess

from processes import Process, free_ports, wait_until

KNOT = shutil.which("knotd", path="/usr/sbin:/usr/bin:/sbin:/bin")


class NameServer:
    """Answers for the zone `test`; for `broken` it answers SERVFAIL, and refuses all others."""

    def __init__(self, folder, records):
        self.folder = folder / "names"
        self.folder.mkdir()
        self.address = f"127.0.0.1:{free_ports()}"
        host, port = self.address.split(":")
        zone = "$TTL 1\n@ SOA ns.test. hostmaster.test. 1 60 60 60 1\n@ NS ns.test.\nns A 127.0.0.1\n"
        (self.folder / "test.zone").write_text(zone + "\n".join(records) + "\n")
        (self.folder / "conf").write_text(f"""server:
  rundir: {self.folder}
  listen: {host}@{port}
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
log:
  - target: stderr
    any: warning
database:
  storage: {self.folder}
template:
  - id: default
    storage: {self.folder}
    semantic-checks: off
    journal-content: none
zone:
  - domain: test.
    file: test.zone
  - domain: broken.
    file: no.zone
""")
        self.process = Process(self.folder, "knotd", KNOT, "-c", self.folder / "conf")
        wait_until(self._answers, 30, "the name server's answer")

    def _answers(self):
        """Asks for the SOA of `test` by a datagram of this file's own: no error and one answer."""
        question = struct.pack(">6H", 7, 0, 1, 0, 0, 0) + b"\4test\0" + struct.pack(">2H", 6, 1)
        host, port = self.address.split(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(0.5)
            try:
                asking.sendto(question, (host, int(port)))
                answer = asking.recv(512)
            except OSError:
                return False
        _, flags, _, count, *_ = struct.unpack(">6H", answer[:12])
        return flags & 15 == 0 and count == 1

    def stop(self):
        self.process.kill()


class Certificate:
    """Of one host. Signed by an authority of its own, whose certificate is in the file `authority`."""

    def __init__(self, folder, host):
        self.authority, self.chain, self.key = (folder / f"{host}.{kind}.pem" for kind in ("ca", "cert", "key"))
        request, extensions = folder / f"{host}.csr", folder / f"{host}.ext"
        extensions.write_text(f"subjectAltName=DNS:{host}\nbasicConstraints=CA:FALSE\n")
        authority_key = folder / f"{host}.ca.key"
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        openssl("req", "-x509", *curve, "-keyout", authority_key, "-out", self.authority, "-subj", "/CN=authority")
        openssl("req", "-new", *curve, "-keyout", self.key, "-out", request, "-subj", f"/CN={host}")
        signing = ("-CA", self.authority, "-CAkey", authority_key, "-CAcreateserial", "-extfile", extensions)
        openssl("x509", "-req", "-in", request, *signing, "-days", "30", "-out", self.chain)

    def context(self):
        """For a server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.key)
        return context


def openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)

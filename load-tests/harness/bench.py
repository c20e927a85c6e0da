"""What every part of a bench needs to know, and what it is measured against."""
import json
import os
import shutil
import socket
import sys
import time

from . import machine
from .template import render

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOT = os.path.dirname(HERE)


class Bench:
    """What every part of the harness needs to know: arguments, ports, paths, the upstream."""

    def __init__(self, args):
        self.args, self.here = args, HERE
        self.tools = os.environ.get("BENCH_TOOLS", os.path.join(ROOT, "target", "bench-tools"))
        self.lg = os.environ.get("LG_BIN") or self.tool("lg")
        self.work = os.path.abspath(args.work or os.path.join(args.out, "work"))
        shutil.rmtree(self.work, ignore_errors=True)
        os.makedirs(self.work)
        os.chmod(self.work, 0o755)
        self.results = open(os.path.join(args.out, "results.jsonl"), "a")
        self.ports = {name: args.base + 1 + i for i, name in enumerate(["UP", "UPTLS", "UPH2C", "SINK", "UDPSINK", "ADMIN", "UPECHO", "UPBAD"])}
        for port in self.ports.values():
            if machine.accepts(port):
                sys.exit(f"port {port} is taken: use --base")
        self.variables = dict(self.ports, WORK=self.work, PAD128="x" * 128, PAD2K="y" * 2048)

    def tool(self, name):
        """A load generator of ours."""
        path = os.path.join(self.tools, name)
        if not os.path.exists(path):
            sys.exit(f"there is no {path}: run load-tests/setup first")
        return path

    def emit(self, row):
        self.results.write(json.dumps(dict(row, ts=round(time.time(), 1))) + "\n")
        self.results.flush()

    def prepare(self, echo=False):
        """Bodies, a CA and a certificate for this run alone, and the upstream."""
        def file(name, data):
            with open(os.path.join(self.work, name), "wb") as out:
                out.write(data)

        def openssl(*words):
            machine.sh(["openssl", *words], cwd=self.work)

        file("b1m", os.urandom(1 << 20))
        file("b64", b"\0\0\0\0\x3b" + b"z" * 59)
        file("ext", b"subjectAltName=DNS:up.test,DNS:localhost,DNS:127.0.0.1,IP:127.0.0.1,IP:127.0.1.50\n")
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "30", "-subj", "/CN=bench CA",
                "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature")
        openssl("req", *key, "-keyout", "up.key", "-out", "up.csr", "-subj", "/CN=up.test")
        openssl("x509", "-req", "-in", "up.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
                "-extfile", "ext", "-out", "up.crt")
        openssl("req", "-x509", *key, "-keyout", "bad.key", "-out", "bad.crt", "-days", "30", "-subj", "/CN=up.test", "-addext",
                "subjectAltName=DNS:up.test,IP:127.0.0.1,IP:127.0.1.50")
        # never read: full means dropped, which costs the sender nothing more
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", self.ports["UDPSINK"]))
        nginx = os.environ.get("NGINX_BIN") or shutil.which("nginx") or "/usr/sbin/nginx"
        with open(os.path.join(self.here, "upstream", "nginx.conf.tmpl")) as template:
            file("upstream.conf", render(template.read(), self.variables, []).encode())
        self.upstreams = [[nginx, "-c", os.path.join(self.work, "upstream.conf"), "-p", self.work]]
        if echo:
            port = self.ports["UPECHO"]
            self.upstreams.append([self.tool("lgs"), "serve", "--h2c", f"127.0.0.1:{port}", "--h2c", f"127.0.1.50:{port}"])
        self.upstream, *_ = [machine.spawn(words, self.args.up_core, os.path.join(self.work, f"upstream-{nth}.log"), self.args.nice)
                             for nth, words in enumerate(self.upstreams)]
        deadline = time.time() + 10
        while not machine.accepts(self.ports["UP"]):
            if time.time() > deadline or self.upstream.poll() is not None:
                sys.exit(f"the upstream did not come up: see {self.work}/upstream.err")
            time.sleep(0.05)

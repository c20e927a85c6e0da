"""A proxy under test: its binary, its configuration, its process."""
import glob
import json
import os
import shutil
import time

from . import machine
from .scenarios import JOB
from .template import render


class Direct:
    """No proxy: what the machine, the client and the upstream can do at most."""
    name, binary, info = "direct", None, {}

    def __init__(self, bench):
        self.bench, self.port = bench, None

    def can(self, scenario):
        return scenario["config"] in ("plain", "job", "jobrec") and not scenario.get("special") and not scenario.get("only")

    def start(self, config, upstream):
        self.port = self.bench.ports[upstream]

    def host(self, host):
        return host

    def pids(self):
        return []

    def process_ended(self):
        return False

    def stop(self, limit=0):
        pass


def described(peers, name):
    """`peer.json` of a peer, laid over that of its `base` (and its base's): fields replace fields, `variables` are joined. With it the
    directories where templates are looked for, the peer's own first."""
    folder = os.path.join(peers, name)
    with open(os.path.join(folder, "peer.json")) as file:
        info = json.load(file)
    if "base" not in info:
        return info, [folder]
    base, folders = described(peers, info.pop("base"))
    variables = {**base.get("variables", {}), **info.get("variables", {})}
    return {**base, **info, "variables": variables}, [folder, *folders]


class Peer:
    def __init__(self, bench, name, index, folder=None):
        self.bench, self.name = bench, name
        # each peer has a second and a third port for the identities that must be refused
        self.port, self.wrong_port, self.none_port = (bench.args.base + 20 + 3 * index + i for i in range(3))
        self.info, self.dirs = described(os.path.join(bench.here, "peers"), name)
        # two peers of one kind run in one bench: what each writes is its own
        self.own = os.path.join(bench.work, folder or name)
        os.makedirs(self.own)
        os.chmod(self.own, 0o755)
        self.binary = os.environ.get(self.info["bin_env"]) or next(filter(None, map(self._find, self.info["bin_default"])), None)
        self.process = None

    def _find(self, pattern):
        pattern = pattern.format(tools=self.bench.tools, here=self.bench.here)
        return next(iter(sorted(glob.glob(pattern))), None) if "/" in pattern else shutil.which(pattern)

    def version(self):
        try:
            said = machine.sh([x.format(bin=self.binary) for x in self.info["version"]], timeout=20).stdout
            return said.strip().splitlines()[0].replace(self.binary, "").strip()[:100]
        except (OSError, IndexError):
            return "?"

    def _template(self, config):
        return self._source(f"{config}.{self.info['ext']}.tmpl") or self._source(self.info["template"])

    def _source(self, name):
        return next((p for p in (os.path.join(folder, name) for folder in self.dirs) if os.path.exists(p)), None)

    def can(self, scenario):
        config = scenario["config"]
        kinds = {os.path.basename(folder) for folder in self.dirs}
        if not kinds & set(scenario.get("only", kinds)):
            return False
        return bool(self.binary) and config in self.info["configs"] and ("template" not in self.info or bool(self._template(config)))

    def host(self, host):
        """The Host that a client of this peer sends; a peer that takes the upstream from it names the upstream there."""
        return self.info.get("host", host).format(upstream=self.upstream)

    def _render(self, source, target, flags):
        variables = dict(self.bench.variables, **self.info.get("variables", {}), PORT=self.port, WRONGPORT=self.wrong_port,
                         NONEPORT=self.none_port, UPSTREAM=self.upstream, OWN=self.own)
        with open(source) as file:
            text = render(file.read(), variables, flags)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w") as file:
            file.write(text.lstrip("\n"))

    def prepare(self, config, upstream):
        """Writes the peer's configuration and clears what a former run left; the words that start it."""
        self.upstream_name, self.upstream = upstream, self.bench.ports[upstream]
        work = self.bench.work
        flags = [config, *self.info.get("flags", [])]
        words = {"bin": self.binary, "port": self.port, "work": work, "own": self.own, "tools": self.bench.tools, "config": ""}
        for target, source in self.info.get("files", {}).items():
            self._render(self._source(source), os.path.join(self.own, target), flags)
        if "template" in self.info:
            words["config"] = os.path.join(self.own, f"{config}.{self.info['ext']}")
            self._render(self._template(config), words["config"], flags)
        for command in self.info.get("prepare", []):
            machine.sh([x.format(**words) for x in command])
        return [x.format(**words) for x in self.info["start"]]

    def start(self, config, upstream, under=(), limit=20, answers=True):
        """Starts the peer, `under` another program where given, and waits until it answers; until it accepts where it will not answer."""
        command = [*under, *self.prepare(config, upstream)]
        log = os.path.join(self.bench.work, f"{self.name}.log")
        started = time.perf_counter()
        self.process = machine.spawn(command, self.bench.args.proxy_core, log, self.bench.args.nice)
        while not (self._ready(config) if answers else machine.accepts(self.port)):
            if self.process.poll() is not None or time.perf_counter() - started > limit:
                self.stop()
                raise RuntimeError(f"{self.name} did not come up for {config}; see {log}")
            time.sleep(0.001)
        self.startup_ms = (time.perf_counter() - started) * 1e3

    def _ready(self, config):
        try:
            if config in ("h2", "grpc", "mitm", "mitm2"):
                return machine.accepts(self.port)
            return machine.get(self.port, "/v1/obj-050/echo", self.host(JOB["host"]), JOB["headers"])[0] == 200
        except (OSError, ValueError):
            return False

    def pids(self):
        return machine.tree(self.process.pid)

    def process_ended(self):
        """Whether the peer is no longer there: it crashed, or was killed."""
        return self.process is None or self.process.poll() is not None

    def stop(self, limit=3):
        if self.process:
            machine.stop(self.process, limit)
        self.process = None

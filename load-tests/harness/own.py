"""An exeat with a configuration that is written here: for what depends on its size (`scale`) and its age (`soak`)."""
import json
import os
import shutil
import time

from . import machine

DOMAIN = "bench.test"


def svc(number):
    return f"spiffe://{DOMAIN}/ns/prod/sa/svc-{number:03d}"


class World:
    """What is written: listeners by name (port, capture, workload), upstreams by name, credentials by name, rules."""

    def __init__(self, **more):
        self.listeners, self.upstreams, self.credentials, self.rules = {}, {}, {}, []
        self.limits = dict(connections=20000, keep_alive="1h")
        # JSON is YAML: the files of thousands of upstreams are written and read as it
        self.top = dict(exeat="config/v1", state="ephemeral", trust_domain=DOMAIN, threads=1, unlisted="refuse",
                        policies=[dict(directory="policies", bounds="all")], audit=dict(file="audit"), drain=dict(delay="0s", deadline="5s"), **more)

    def listener(self, name, port, workload, capture="host"):
        self.listeners[name] = dict(address=f"127.0.0.1:{port}", capture=capture, identity=[f"is-{name}"])
        self.top.setdefault("identities", {})[f"is-{name}"] = dict(fixed=dict(id=workload))

    def upstream(self, name, origin, **more):
        self.upstreams[name] = dict(owner="bench@bench.test", origins=[origin], reach=dict(networks=["127.0.0.0/8"]), protocol="h1",
                                    credentials=["token"], **{}) | more

    def token(self, name="token", ttl="5m"):
        self.credentials[name] = dict(local_jwt=dict(issuer="https://exeat.bench.test", audience="https://api.bench.test", scopes=["read"], ttl=ttl),
                                      inject="bearer")

    def rule(self, name, workload, upstreams, path="/**", grant="token", **more):
        self.rules.append(dict(id=name, effect="allow", methods=["GET", "POST"], paths=[path], grant=grant, to=upstreams, **{"from": [workload]}) | more)

    def write(self, folder):
        """Writes both files; returns the configuration's path."""
        os.makedirs(os.path.join(folder, "policies"), exist_ok=True)
        config = self.top | dict(listeners=self.listeners, upstreams=self.upstreams, credentials=self.credentials, limits=self.limits)
        path = os.path.join(folder, "exeat.yaml")
        with open(path, "w") as file:
            json.dump(config, file)
        self.write_rules(folder)
        return path

    def write_rules(self, folder, more=()):
        """Replaces the policy files; a file holds so many rules that it stays below the bound on a file's size."""
        policies, each = os.path.join(folder, "policies"), 5000
        rules = [*self.rules, *more]
        for number, start in enumerate(range(0, max(1, len(rules)), each)):
            name = f"bench{number}"
            text = json.dumps(dict(exeat="policy/v1", name=name, rules=rules[start:start + each],
                                   defaults=dict(owner="bench@bench.test", reason="benchmark", expires="2027-06-01T00:00:00Z")))
            with open(os.path.join(policies, f".{name}"), "w") as file:
                file.write(text)
            os.replace(os.path.join(policies, f".{name}"), os.path.join(policies, f"{name}.yaml"))


class Exeat:
    """The process."""

    def __init__(self, bench, binary, name="own", core=None):
        self.bench, self.binary, self.core = bench, binary, bench.args.proxy_core if core is None else core
        self.folder = os.path.join(bench.work, name)
        self.process = None

    def start(self, world, ready, limit=120):
        """Writes the world, starts and waits for `ready()`; returns the milliseconds from the start to there."""
        shutil.rmtree(self.folder, ignore_errors=True)
        path = world.write(self.folder)
        began = time.perf_counter()
        self.process = machine.spawn([self.binary, "run", "-c", path], self.core, os.path.join(self.bench.work, "exeat.log"), self.bench.args.nice)
        while not ready():
            if self.process.poll() is not None or time.perf_counter() - began > limit:
                self.stop()
                raise RuntimeError(f"exeat did not come up; see {self.bench.work}/exeat.log")
            time.sleep(0.001)
        return (time.perf_counter() - began) * 1e3

    def cpu(self):
        return machine.cpu([self.process.pid])[0]

    def memory(self):
        """MB resident, and of it the process's own: what grows. The rest is the binary, as far as it is read in."""
        said = machine.memory([self.process.pid])
        return said["rss_mb"], said["own_mb"]

    def audit(self):
        return os.path.join(self.folder, "audit")

    def stop(self, limit=10):
        if self.process:
            machine.stop(self.process, limit)
        self.process = None


def answers(port, path, host, status=200):
    """Whether a request is answered with this status."""
    try:
        return machine.get(port, path, host)[0] == status
    except (OSError, ValueError):
        return False


def load(bench, port, host, path="/b128", duration=2.0, conns=32, rate=0, words=(), core=None):
    """Runs lg once; what it said."""
    out = os.path.join(bench.work, "own-client.out")
    open(out, "w").close()
    command = [bench.lg, "--target", f"127.0.0.1:{port}", "--host", host, "--path", path, "--conns", conns, "--duration", duration, "--warmup", 0,
               *(["--rate", rate] if rate else []), *words]
    process = machine.spawn(command, bench.args.load_core if core is None else core, out, bench.args.nice)
    process.wait(duration + 60)
    machine.forget(process)
    with open(out) as file:
        text = file.read()
    try:
        return json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise RuntimeError(f"the client said {text[-300:].strip() or 'nothing'}") from None

"""A scenario: rounds that alternate the peers, then the counting runs, then the rows of the report."""
import json
import os
import resource
import statistics
import threading
import time

from . import emulated, gate, machine
from .drive import client
from .scenarios import SCENARIOS


def median(rows, key):
    values = [row[key] for row in rows if row.get(key) is not None]
    return statistics.median(values) if values else None


def extent(rows, key):
    """The least and the most of the rounds: a median of few of them says nothing of how far they lie apart."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return (min(values), max(values)) if values else None


def scenario(bench, name):
    """Measures one scenario; returns the lines of the report."""
    what = SCENARIOS[name]
    print(f"== {name}: {what['what']}", flush=True)
    if bench.args.count:
        return [f"\n### {name}: {what['what']}\n", *([] if what.get("special") else counts_alone(bench, name, what))]
    if what.get("special"):
        return [f"\n### {name}: {what['what']}\n", *footprint(bench, name)]
    duration, warmup = (1.0, 0.2) if bench.args.quick else (bench.args.duration, bench.args.warmup)
    peers = admitted(bench, name, what)
    taken = rounds(bench, name, what, peers, duration, warmup)
    counts = {peer.name: count(bench, name, what, peer, warmup) for peer in peers if peer.name != "direct"}
    for peer in peers:
        peer.stop()
    return [f"\n### {name}: {what['what']}\n", *summary(bench, name, peers, taken, counts), *lived(bench, name, peers, taken)]


def admitted(bench, name, what):
    """The peers that can do the scenario and, where there is a job, do it."""
    ready = []
    for peer in bench.peers:
        if not peer.can(what):
            continue
        try:
            peer.start(what["config"], what.get("upstream", "UP"))
            wrong = gate.check(peer, what["config"]) if peer.name != "direct" else []
        except (RuntimeError, OSError) as error:
            print(f"  !! {peer.name}: {error}")
            bench.emit(dict(scenario=name, peer=peer.name, error=str(error)))
            peer.stop()
            continue
        if wrong:
            print(f"  !! {peer.name} does not do the job, left out: {wrong}")
            bench.emit(dict(scenario=name, peer=peer.name, refused=wrong))
            peer.stop()
        else:
            ready.append(peer)
    return ready


def rounds(bench, name, what, peers, duration, warmup):
    """Closed loop (the ceiling), then open loop at a share of the slowest peer's first ceiling; with --at also at that rate and at half
    of the peer's own ceiling. The order rotates."""
    taken = {mode: {peer.name: [] for peer in peers} for mode in ("closed", "rate", "at", "half")}

    def one(peer, k, mode, rate=0):
        posts = sink_posts(bench)
        with Reloads(peer, what.get("reloads", 0)) as reloads:
            result = client(bench, peer, what, duration, warmup, rate)
        if what["config"] == "jobrec":
            time.sleep(0.3)
            result["sink_posts"] = sink_posts(bench) - posts
        row = dict(result, k=k, rate=rate, **reloads.said())
        bench.emit(dict(scenario=name, peer=peer.name, round=k, mode=mode, **row))
        if result.get("error"):
            print("  !!", peer.name, mode, result["error"][-300:])
            if peer.process_ended():
                peer.start(what["config"], what.get("upstream", "UP"))
        else:
            taken[mode][peer.name].append(row)

    rate = bench.args.rate
    for k in range(bench.args.rounds or (2 if bench.args.quick else 5)):
        turn = k % max(1, len(peers))
        for peer in peers[turn:] + peers[:turn]:
            one(peer, k, "closed")
        if not what.get("paced", True):
            continue
        if not rate:
            ceilings = [taken["closed"][p.name][0]["rps"] for p in peers if taken["closed"][p.name] and not p.info.get("slow")]
            rate = int(min(ceilings) * bench.args.load) if ceilings else 0
        for peer in peers if rate else []:
            own = [row["rps"] for row in taken["closed"][peer.name]]
            if not own:
                continue
            slow = peer.info.get("slow")
            one(peer, k, "rate", max(1, int(min(rate, own[0] * bench.args.load) if slow else rate)))
            if bench.args.at and not slow:
                one(peer, k, "at", bench.args.at)
                one(peer, k, "half", max(1, int(own[0] / 2)))
    return taken


class Reloads:
    """Replaces the peer's policy file so many times a second, with one rule more and one rule less in turn, for as long as it is open."""

    def __init__(self, peer, rate):
        self.rate, self.done, self.stop = rate, 0, threading.Event()
        self.path = os.path.join(getattr(peer, "own", ""), "policies", "bench.yaml")
        self.records = os.path.join(getattr(peer, "own", ""), "audit")

    def __enter__(self):
        if self.rate:
            self.before = machine.matches('"event":"reload"', self.records)
            with open(self.path) as file:
                self.text = file.read()
            self.thread = threading.Thread(target=self._run)
            self.thread.start()
        return self

    def _run(self):
        rule = self.text[self.text.index("  - id: p099"):].replace("p099", "p-more")
        while not self.stop.wait(1 / self.rate):
            with open(self.path + ".new", "w") as file:
                file.write(self.text + (rule if self.done % 2 == 0 else ""))
            os.replace(self.path + ".new", self.path)
            self.done += 1

    def __exit__(self, *_):
        if self.rate:
            self.stop.set()
            self.thread.join()

    def said(self):
        """Files replaced, and reloads that the peer's own records tell of."""
        return dict(replaced=self.done, reloads=machine.matches('"event":"reload"', self.records) - self.before) if self.rate else {}


def sink_posts(bench):
    try:
        with open(os.path.join(bench.work, "sink.log")) as file:
            return file.read().count("\n")
    except OSError:
        return 0


def count(bench, name, what, peer, warmup):
    """Runs of their own for the counters: they make every context switch dearer."""
    counted = {}
    for counter in filter(None, (bench.syscalls, bench.instructions)):
        result = client(bench, peer, what, 1, warmup, counter=counter)
        counted.update({k: result[k] for k in ("syscalls", "instr_user_k", "instr_kernel_k") if k in result})
    if not bench.instructions and bench.callgrind and peer.info.get("callgrind", True):
        try:
            counted.update(under_callgrind(bench, what, peer))
        except (RuntimeError, OSError) as error:
            print(f"  -- {peer.name}: not counted by callgrind: {error}")
    if not bench.instructions and bench.emulated and peer.info.get("emulated", True):
        try:
            both, counted["emulated"] = emulated.count(bench, what, peer)
            counted.update(instr_k=both)
            if "instr_user_k" in counted:
                counted["instr_kernel_k"] = round(both - counted["instr_user_k"], 1)
        except (RuntimeError, OSError) as error:
            print(f"  -- {peer.name}: not counted in an emulated machine: {error}")
    bench.emit(dict(scenario=name, peer=peer.name, mode="count", **counted))
    return counted


def counts_alone(bench, name, what):
    """The rows of a scenario of which only instructions are counted: it needs no calm machine."""
    yield "| peer | k instr/req: user and kernel | user | kernel |"
    yield "|---|---|---|---|"
    for peer in bench.peers:
        if peer.name == "direct" or not peer.can(what):
            continue
        counted = count(bench, name, what, peer, 0.2)
        peer.stop()
        print("  ", json.dumps({"peer": peer.name, **counted}), flush=True)
        yield f"| {peer.name} | " + " | ".join(number(counted.get(key), 1) for key in ("instr_k", "instr_user_k", "instr_kernel_k")) + " |"


def under_callgrind(bench, what, peer):
    """Thousands of user instructions per request: the difference of a short and a long run."""
    taken = []
    for duration in (2, 8 if bench.args.quick else 14):
        peer.stop()
        peer.start(what["config"], what.get("upstream", "UP"), under=bench.callgrind.under(), limit=180)
        result = client(bench, peer, what, duration, 0)
        peer.stop(limit=60)
        if result.get("error") or not bench.callgrind.total():
            raise RuntimeError(result.get("error") or "it left no counts")
        taken.append((bench.callgrind.total(), result["all"]))
    (first, few), (second, many) = taken
    if many <= few:
        raise RuntimeError(f"too few requests to tell ({few}, then {many})")
    return {"instr_user_k": round((second - first) / (many - few) / 1e3, 1)}


HEAD = [
    "CPU µs/req", "of it kernel", "vs {ref}, paired", "req/s per proxy core", "measured req/s", "limit", "fixed rate: asked, answered",
    "p50 µs there", "p99 µs", "p99.9 µs", "added p50 / p99 / p99.9", "µs/req there", "k instr/req user + kernel", "syscalls/req", "errors",
]
LATENCIES = ("p50_us", "p99_us", "p999_us")
SPREAD = "Medians of the rounds, in brackets the least and the most of them."


def number(x, digits=0):
    return "-" if x is None else f"{x:,.{digits}f}"


def spread(rows, key, digits=0):
    """The median of the rounds, with its extent."""
    ends = extent(rows, key)
    return "-" if ends is None else f"{number(median(rows, key), digits)} ({number(ends[0], digits)} to {number(ends[1], digits)})"


def summary(bench, name, peers, taken, counts):
    """The rows of a scenario, and one `mode: summary` object each."""
    closed, paced = taken["closed"], taken["rate"]
    yield SPREAD + "\n"
    yield "| peer | " + " | ".join(HEAD).format(ref=bench.args.ref) + " |"
    yield "|---" * (len(HEAD) + 1) + "|"
    reference = {row["k"]: row["cpu_us"] for row in closed.get(bench.args.ref, [])}
    direct = paced.get("direct", [])
    for peer in peers:
        rows, rates, counted = closed[peer.name], paced[peer.name], counts.get(peer.name, {})
        if not rows:
            continue
        ratios = [dict(ratio=row["cpu_us"] / reference[row["k"]]) for row in rows if reference.get(row["k"])]
        s = {key: median(rows, key) for key in ("cpu_us", "kernel_us", "rps", "mb_s", "proxy_util", "load_util", "sink_posts")}
        s.update({key: counted.get(key) for key in ("instr_user_k", "instr_kernel_k", "syscalls")})
        s.update({key: median(rates, key) for key in ("rate", *LATENCIES)})
        s.update({f"{key}_extent": extent(rows, key) for key in ("cpu_us", "kernel_us", "rps")})
        s.update({f"{key}_extent": extent(rates, key) for key in LATENCIES})
        for key in ("replaced", "reloads"):
            counted = [row[key] for kept in taken.values() for row in kept[peer.name] if key in row]
            s.update({key: sum(counted)} if counted else {})
        s.update(rounds=len(rows), best_cpu_us=min(row["cpu_us"] for row in rows), ratio=median(ratios, "ratio"),
                 ratio_extent=extent(ratios, "ratio"), rate_cpu_us=median(rates, "cpu_us"), rate_rps=median(rates, "rps"),
                 errors=sum(row["errors"] + row["non2xx"] for row in rows + rates))
        for key in LATENCIES:
            base = median(direct, key)
            s["added_" + key] = s[key] - base if base and s[key] and peer.name != "direct" else None
        bench.emit(dict(scenario=name, peer=peer.name, mode="summary", **s))
        print("  ", json.dumps({"peer": peer.name, **s}), flush=True)
        proxied = peer.name != "direct"
        limit = "proxy core" if s["proxy_util"] >= s["load_util"] else "load core"
        volume = f" ({s['mb_s']:.0f} MB/s)" if name.startswith("S7") and s["mb_s"] else ""
        cells = [
            spread(rows, "cpu_us", 1) if proxied else "-",
            spread(rows, "kernel_us", 1) if proxied else "-",
            spread(ratios, "ratio", 2) if proxied else "-",
            number(1e6 / s["cpu_us"]) if proxied and s["cpu_us"] else "-",
            spread(rows, "rps") + volume,
            f"{limit} {s['proxy_util']:.2f}/{s['load_util']:.2f}" if proxied else "-",
            f"{number(s['rate'])}, {number(s['rate_rps'])}",
            *(spread(rates, key) for key in LATENCIES),
            " / ".join(number(s["added_" + key]) for key in LATENCIES),
            spread(rates, "cpu_us", 1) if proxied else "-",
            f"{number(s['instr_user_k'], 1)} + {number(s['instr_kernel_k'], 1)}",
            number(s["syscalls"], 2),
            str(s["errors"]),
        ]
        yield f"| {peer.name} | " + " | ".join(cells) + " |"


def lived(bench, name, peers, taken):
    """The second table of --at: what a sidecar's users see."""
    if not any(taken["at"].values()):
        return
    yield ""
    here = f"at {bench.args.at:,.0f}/s"
    head = [f"{here}: p50 µs", "p99 µs", "p99.9 µs", "added p50 / p99 / p99.9", "µs/req there", "half of its own ceiling, req/s", "p50 µs there", "p99 µs",
            "p99.9 µs", "µs/req there", "errors"]
    yield "| peer | " + " | ".join(head) + " |"
    yield "|---" * (len(head) + 1) + "|"
    base = [median(taken["at"].get("direct", []), key) for key in LATENCIES]
    for peer in peers:
        at, half = taken["at"][peer.name], taken["half"][peer.name]
        if not at:
            continue
        added = [a - b if a is not None and b is not None and peer.name != "direct" else None
                 for a, b in zip((median(at, key) for key in LATENCIES), base)]
        s = dict(at_rate=bench.args.at, at_cpu_us=median(at, "cpu_us"), half_rate=median(half, "rate"), half_cpu_us=median(half, "cpu_us"),
                 errors=sum(row["errors"] + row["non2xx"] for row in at + half))
        for prefix, rows in (("at", at), ("half", half)):
            s.update({f"{prefix}_{key}": median(rows, key) for key in LATENCIES})
            s.update({f"{prefix}_{key}_extent": extent(rows, key) for key in LATENCIES})
        s.update({f"added_{key}": value for key, value in zip(LATENCIES, added)})
        bench.emit(dict(scenario=name, peer=peer.name, mode="lived", **s))
        proxied = peer.name != "direct"
        cells = [
            *(spread(at, key) for key in LATENCIES),
            " / ".join(number(value) for value in added),
            spread(at, "cpu_us", 1) if proxied else "-",
            spread(half, "rate"),
            *(spread(half, key) for key in LATENCIES),
            spread(half, "cpu_us", 1) if proxied else "-",
            str(s["errors"]),
        ]
        yield f"| {peer.name} | " + " | ".join(cells) + " |"


def footprint(bench, name):
    """S8: binary, start to first 200, memory and CPU when idle, memory with idle connections and at the peak of a load."""
    yield "| peer | binary MB | start ms | idle RSS/PSS MB | idle conns held: RSS/PSS MB | KB per conn | peak RSS under load MB | idle CPU ms/s |"
    yield "|---|---|---|---|---|---|---|---|"
    quick = bench.args.quick
    for peer in bench.peers:
        if peer.name == "direct" or not peer.can(SCENARIOS[name]):
            continue
        try:
            r = dict(peer=peer.name, scenario=name, **one_footprint(bench, peer, quick))
        except (RuntimeError, OSError) as error:
            print("  !!", peer.name, error)
            continue
        finally:
            peer.stop()
        bench.emit(r)
        print("  ", json.dumps(r), flush=True)
        idle, held = r["idle"], r["with_idle_conns"]
        yield (f"| {peer.name} | {r['binary_mb']} | {r['startup_ms']} | {idle['rss_mb']} / {idle['pss_mb']} | {r['idle_conns_held']}: "
               f"{held['rss_mb']} / {held['pss_mb']} | {r['kb_per_idle_conn']} | {r['under_load']['hwm_mb']} | {r['idle_cpu_ms_per_s']} |")


def one_footprint(bench, peer, quick):
    r = dict(binary_mb=round(os.stat(os.path.realpath(peer.binary)).st_size / 1e6, 1))
    starts = []
    for _ in range(3 if quick else 7):
        peer.start("plain", "UP")
        starts.append(peer.startup_ms)
        peer.stop()
    r["startup_ms"] = round(statistics.median(starts), 1)
    peer.start("plain", "UP")
    time.sleep(1)
    r["idle"] = machine.memory(peer.pids())
    before = machine.cpu(peer.pids())[0]
    time.sleep(2)
    r["idle_cpu_ms_per_s"] = round((machine.cpu(peer.pids())[0] - before) * 500, 2)
    conns = 2000 if quick else min(10000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 1000, peer.info.get("connections", 10000))
    out = os.path.join(bench.work, "idle.out")
    open(out, "w").close()
    words = [bench.lg, "--target", f"127.0.0.1:{peer.port}", "--host", peer.host("up.test"), "--path", "/b128", "--idle", conns]
    holder = machine.spawn(words, bench.args.load_core, out)
    deadline = time.time() + 60
    while time.time() < deadline and '"held"' not in open(out).read():
        time.sleep(0.1)
    time.sleep(0.5)
    try:
        r["idle_conns_held"] = json.loads(open(out).read())["held"]
    except ValueError:
        r["idle_conns_held"] = 0
    r["with_idle_conns"] = machine.memory(peer.pids())
    grown = r["with_idle_conns"]["pss_mb"] - r["idle"]["pss_mb"]
    r["kb_per_idle_conn"] = round(grown * 1024 / max(1, r["idle_conns_held"]), 2)
    machine.stop(holder)
    peer.stop()
    peer.start("plain", "UP")
    client(bench, peer, dict(SCENARIOS["S1"], conns=64), 1.5 if quick else 4, 0.2)
    r["under_load"] = machine.memory(peer.pids())
    return r

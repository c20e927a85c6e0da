"""One run of the client against a peer, and what it cost the peer."""
import json
import os
import re
import subprocess
import time

from . import machine


def command(bench, peer, scenario, duration, warmup, rate):
    host, conns = peer.host(scenario.get("host", "up.test")), bench.args.conns or scenario.get("conns", 32)
    inside = []
    if scenario.get("mitm"):
        host = peer.host(f"127.0.0.1:{bench.ports['UPTLS']}")
        inside = ["--connect", host, "--tls", host.split(":")[0]]
    if scenario.get("tool") == "lgs" and scenario.get("mitm"):
        return [bench.tool("lgs"), "get", "--target", f"127.0.0.1:{peer.port}", "--host", host, "--path", scenario["path"], "--conns", 4,
                "--streams", 100, "--duration", duration + warmup, "--rate", rate, *inside]
    if scenario.get("tool") == "lgs":
        return [bench.tool("lgs"), "stream", "--target", f"127.0.0.1:{peer.port}", "--host", host, "--path", scenario["path"], "--conns", 4,
                "--streams", 25, "--messages", scenario["messages"], "--size", 100, "--duration", duration + warmup]
    if scenario.get("tool") == "h2load":
        words = ["h2load", "-c", 4, "-m", 100, "-t", 1, "-D", max(1, round(duration + warmup))]
        words += ["--rps", max(1, int(rate / 4)), "--log-file", os.path.join(bench.work, "h2.log")] if rate else []
        if scenario.get("grpc"):
            words += ["-d", os.path.join(bench.work, "b64"), "-H", "content-type: application/grpc", "-H", "te: trailers"]
        return [*words, f"--connect-to=127.0.0.1:{peer.port}", f"http://{host}{scenario['path']}"]
    words = [bench.lg, "--target", f"127.0.0.1:{peer.port}", "--host", host, "--path", scenario["path"], "--conns", conns,
             "--duration", duration, "--warmup", warmup]
    words += ["--rate", rate] if rate else []
    words += ["--close"] if scenario.get("close") else []
    words += inside
    words += ["--method", "POST", "--body", scenario["body"]] if scenario.get("body") else []
    for header in scenario.get("headers", []):
        words += ["--header", header]
    return words


# what every row of results is made from: a client that says less has failed, whatever it printed
NEEDED = ("all", "requests", "rps", "non2xx", "errors")


def parse(bench, scenario, text, duration, warmup, rate):
    """What the client says came of its run; `error` and the end of its output where it does not say enough."""
    if scenario.get("tool") != "h2load":
        try:
            said = json.loads(text.strip().splitlines()[-1])
        except (ValueError, IndexError):
            said = None
        if not isinstance(said, dict) or any(not isinstance(said.get(key), (int, float)) for key in NEEDED):
            return dict(error=f"the client said {text[-300:].strip() or 'nothing'}")
        return said
    finished = re.search(r"finished in ([\d.]+)s, ([\d.]+) req/s", text)
    counts = re.search(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed", text)
    if not finished or not counts:
        return dict(error=f"the client said {text[-300:].strip() or 'nothing'}")
    done, good, failed = (int(x) for x in counts.groups())
    result = dict(all=done, requests=done, rps=done / max(1, round(duration + warmup)), non2xx=done - good, errors=failed)
    if rate:
        with open(os.path.join(bench.work, "h2.log")) as log:
            latencies = sorted(int(line.split("\t")[2]) for line in log if line.count("\t") == 2)
        if latencies:
            at = {"p50_us": 0.5, "p99_us": 0.99, "p999_us": 0.999}
            result.update({key: latencies[int((len(latencies) - 1) * share)] for key, share in at.items()})
    return result


def client(bench, peer, scenario, duration, warmup, rate=0, counter=None):
    """Runs the client once. Latencies and rates are the client's word; the CPU time is the kernel's."""
    out = os.path.join(bench.work, "client.out")
    for path in (out, os.path.join(bench.work, "h2.log")):
        open(path, "w").close()
    pids, upstream_pids = peer.pids(), machine.tree(bench.upstream.pid)
    if counter:
        counter.begin(bench, pids)
    (proxy, kernel), (upstream, _), children, start = machine.cpu(pids), machine.cpu(upstream_pids), sum(os.times()[2:4]), time.perf_counter()
    process = machine.spawn(command(bench, peer, scenario, duration, warmup, rate), bench.args.load_core, out, bench.args.nice)
    late = False
    try:
        process.wait(duration + warmup + 15)
    except subprocess.TimeoutExpired:
        late = True
        machine.stop(process)
    wall = time.perf_counter() - start
    machine.forget(process)
    now, kernel_now = machine.cpu(peer.pids())
    load = machine.cpu(upstream_pids)[0] - upstream + sum(os.times()[2:4]) - children
    proxy, kernel = now - proxy, kernel_now - kernel
    counted = counter.end(bench) if counter else {}
    with open(out) as file:
        result = parse(bench, scenario, file.read(), duration, warmup, rate)
    if late or process.returncode:
        result.setdefault("error", "the client did not end" if late else f"the client ended with {process.returncode}")
    elif not result.get("error") and peer.process_ended():
        result["error"] = f"{peer.name} ended while it was measured"
    elif not result.get("error") and not result["all"]:
        result["error"] = f"not one answer: {result.get('last_error') or 'no error said'}"
    if result.get("error"):
        return result
    requests = result["all"]
    result.update({name: round(count / requests / scale, 2) for name, (count, scale) in counted.items()})
    result.update(proxy_util=round(proxy / wall, 3), load_util=round(load / wall, 3), cpu_us=round(proxy * 1e6 / requests, 2),
                  kernel_us=round(kernel * 1e6 / requests, 2), load_us=round(load * 1e6 / requests, 2))
    return result

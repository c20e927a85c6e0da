"""One run of the client against a peer, and what it cost the peer."""
import json
import os
import re
import subprocess
import time

from . import machine


def command(bench, peer, scenario, duration, warmup, rate):
    host, conns = peer.host(scenario.get("host", "up.test")), bench.args.conns or scenario.get("conns", 32)
    if scenario.get("tool") == "h2load":
        words = ["h2load", "-c", 4, "-m", 100, "-t", 1, "-D", max(1, round(duration + warmup))]
        words += ["--rps", max(1, int(rate / 4)), "--log-file", os.path.join(bench.work, "h2.log")] if rate else []
        if scenario.get("grpc"):
            words += ["-d", os.path.join(bench.work, "b64"), "-H", "content-type: application/grpc", "-H", "te: trailers"]
        return [*words, f"http://127.0.0.1:{peer.port}{scenario['path']}"]
    if scenario.get("mitm"):
        host = f"127.0.0.1:{bench.ports['UPTLS']}"
    words = [bench.lg, "--target", f"127.0.0.1:{peer.port}", "--host", host, "--path", scenario["path"], "--conns", conns,
             "--duration", duration, "--warmup", warmup]
    words += ["--rate", rate] if rate else []
    words += ["--close"] if scenario.get("close") else []
    words += ["--connect", host, "--tls", "127.0.0.1"] if scenario.get("mitm") else []
    for header in scenario.get("headers", []):
        words += ["--header", header]
    return words


def parse(bench, scenario, text, duration, warmup, rate):
    if scenario.get("tool") != "h2load":
        try:
            return json.loads(text.strip().splitlines()[-1])
        except (ValueError, IndexError):
            return dict(error=text[-300:])
    finished = re.search(r"finished in ([\d.]+)s, ([\d.]+) req/s", text)
    counts = re.search(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed", text)
    if not finished or not counts:
        return dict(error=text[-300:])
    done, good, failed = (int(x) for x in counts.groups())
    result = dict(all=done, requests=done, rps=done / max(1, round(duration + warmup)), non2xx=done - good, errors=failed)
    if rate:
        with open(os.path.join(bench.work, "h2.log")) as log:
            latencies = sorted(int(line.split("\t")[2]) for line in log if line.count("\t") == 2)
        if latencies:
            result.update(p50_us=latencies[len(latencies) // 2], p99_us=latencies[int(len(latencies) * 0.99)])
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
    try:
        process.wait(duration + warmup + 15)
    except subprocess.TimeoutExpired:
        machine.stop(process)
    wall = time.perf_counter() - start
    machine.forget(process)
    now, kernel_now = machine.cpu(peer.pids())
    load = machine.cpu(upstream_pids)[0] - upstream + sum(os.times()[2:4]) - children
    proxy, kernel = now - proxy, kernel_now - kernel
    counted = counter.end(bench) if counter else {}
    with open(out) as file:
        result = parse(bench, scenario, file.read(), duration, warmup, rate)
    if result.get("error"):
        return result
    requests = max(1, result["all"])
    result.update({name: round(count / requests / scale, 2) for name, (count, scale) in counted.items()})
    result.update(proxy_util=round(proxy / wall, 3), load_util=round(load / wall, 3), cpu_us=round(proxy * 1e6 / requests, 2),
                  kernel_us=round(kernel * 1e6 / requests, 2), load_us=round(load * 1e6 / requests, 2))
    return result

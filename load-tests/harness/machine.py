"""Processes, their CPU time and their memory."""
import atexit
import glob
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys

HZ = os.sysconf("SC_CLK_TCK")
_started = []


def sh(command, timeout=60, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, **options)


def spawn(command, core, log, nice=0):
    """Starts a process in a session of its own on one core, with as many descriptors as it may have."""
    def prepare():
        os.setsid()
        for limit in (65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
                break
            except (ValueError, OSError):
                pass
        try:
            os.sched_setaffinity(0, {core})
        except OSError:
            pass
        if nice:
            # with the scheduler's autogroups on, niceness counts only inside a session: set the session's too
            try:
                os.setpriority(os.PRIO_PROCESS, 0, nice)
                with open("/proc/self/autogroup", "w") as autogroup:
                    autogroup.write(str(nice))
            except OSError:
                pass
    with open(log, "ab") as out:
        process = subprocess.Popen([str(x) for x in command], stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT,
                                   preexec_fn=prepare)
    _started.append(process)
    return process


def stop(process, limit=3):
    """Ends a process that `spawn` started, and its group; by force when it has not ended `limit` seconds later."""
    if process.poll() is None:
        for sig in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, sig)
                process.wait(limit)
                break
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                pass
    forget(process)


def forget(process):
    if process in _started:
        _started.remove(process)


def leave_nothing_running():
    atexit.register(lambda: [stop(process) for process in list(_started)])
    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, lambda *_: sys.exit(1))


def tree(pid):
    """The process and all that descend from it."""
    found, todo = [pid], [pid]
    while todo:
        parent = todo.pop()
        for path in glob.glob(f"/proc/{parent}/task/*/children"):
            try:
                children = [int(x) for x in open(path).read().split()]
            except OSError:
                continue
            found += children
            todo += children
    return found


def cpu(pids):
    """CPU seconds so far, and those of them in the kernel. The total is the threads' run time in ns; the kernel's share comes from
    the tick accounting, so it is a sample."""
    total = kernel = 0.0
    for pid in pids:
        try:
            run = sum(int(open(f).read().split()[0]) for f in glob.glob(f"/proc/{pid}/task/*/schedstat")) / 1e9
            fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += max(run, (int(fields[11]) + int(fields[12])) / HZ)
        kernel += int(fields[12]) / HZ
    return total, kernel


def memory(pids):
    """MB resident, of it the process's own (the rest is its binary, as far as it is read in), proportional, and at the peak."""
    sums = dict(VmRSS=0, RssAnon=0, VmHWM=0, Pss=0)
    for pid in pids:
        for name in ("status", "smaps_rollup"):
            try:
                lines = open(f"/proc/{pid}/{name}").read().splitlines()
            except OSError:
                continue
            for line in lines:
                key = line.split(":")[0]
                if key in sums:
                    sums[key] += int(line.split()[1])
    return dict(rss_mb=round(sums["VmRSS"] / 1024, 1), own_mb=round(sums["RssAnon"] / 1024, 2), pss_mb=round(sums["Pss"] / 1024, 1), hwm_mb=round(sums["VmHWM"] / 1024, 1))


def get(port, path, host, headers=(), timeout=5):
    """One GET on a connection of its own: status and body."""
    with socket.create_connection(("127.0.0.1", port), timeout) as s:
        s.settimeout(timeout)
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", ""]
        s.sendall("\r\n".join(lines).encode())
        data = b""
        while piece := s.recv(65536):
            data += piece
    return int(data[9:12] or 0), data.partition(b"\r\n\r\n")[2].decode("latin1")


def get_inside(port, authority, path, timeout=5):
    """One GET inside a CONNECT tunnel to `authority`, whatever certificate is shown there: the status, or that of the CONNECT."""
    with socket.create_connection(("127.0.0.1", port), timeout) as s:
        s.settimeout(timeout)
        s.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            piece = s.recv(4096)
            if not piece:
                return 0
            head += piece
        if head[9:12] != b"200":
            return int(head[9:12] or 0)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(s, server_hostname=authority.split(":")[0]) as inside:
            inside.sendall(f"GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n".encode())
            return int(inside.recv(4096)[9:12] or 0)


def matches(text, folder):
    """Lines that hold `text` in all files of a directory."""
    said = sh(["sh", "-c", 'cat "$1"/* 2>/dev/null | grep -cF "$0"', text, folder], timeout=300).stdout
    return int(said.strip() or 0)


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), 0.3).close()
        return True
    except OSError:
        return False

"""Instructions and system calls per request: the figures that no neighbour and no clock change moves.

Where the processor's counters can be read, `perf stat` gives the instructions of user and kernel. Most virtual machines hide them: there
callgrind counts the user's, exactly, in a run of the peer of its own; the kernel's cannot be counted, so its CPU time stands beside."""
import glob
import os
import re
import shutil
import signal
import subprocess
import time

from . import machine


class Perf:
    """`perf stat` on the peer's processes while a client runs."""

    def __init__(self, binary, events):
        self.binary, self.events = binary, events

    @staticmethod
    def find(events):
        """A counter for those of `events` (perf's name -> (ours, scale)) that this machine has."""
        binary = os.environ.get("PERF_BIN") or shutil.which("perf")
        if not binary:
            return None
        found = {}
        for event, ours in events.items():
            try:
                said = subprocess.run([binary, "stat", "-x,", "-e", event, "true"], capture_output=True, text=True, timeout=10).stderr
            except (OSError, subprocess.TimeoutExpired):
                continue
            if re.search(r"^\d+,", said, re.M):
                found[event] = ours
        return Perf(binary, found) if found else None

    def begin(self, bench, pids):
        self.out = os.path.join(bench.work, "perf.out")
        words = [self.binary, "stat", "-x,", "-e", ",".join(self.events), "-p", ",".join(map(str, pids)), "-o", self.out]
        self.process = machine.spawn(words, bench.args.load_core, os.devnull)
        time.sleep(0.3)

    def end(self, bench):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            machine.stop(self.process)
        machine.forget(self.process)
        with open(self.out) as file:
            text = file.read()
        counted = {}
        for event, (ours, scale) in self.events.items():
            value = re.search(rf"^(\d+),[^,]*,{re.escape(event)}", text, re.M)
            if value:
                counted[ours] = (int(value[1]), scale)
        return counted


INSTRUCTIONS = {"instructions:u": ("instr_user_k", 1e3), "instructions:k": ("instr_kernel_k", 1e3)}
SYSCALLS = {"raw_syscalls:sys_enter": ("syscalls", 1)}


class Callgrind:
    """Counts the user's instructions of a peer that runs under valgrind. They are written when the peer ends, so two runs of different
    length are taken: what the second has more, of instructions and of requests, is free of start and stop."""

    def __init__(self, work):
        self.valgrind = os.environ.get("VALGRIND_BIN") or shutil.which("valgrind")
        # writable for all: a worker that gave up root writes here too
        os.makedirs(os.path.join(work, "callgrind"))
        os.chmod(os.path.join(work, "callgrind"), 0o777)
        self.files = os.path.join(work, "callgrind", "out")

    def under(self):
        """The words to put before the peer's command."""
        for old in glob.glob(self.files + "*"):
            os.unlink(old)
        return [self.valgrind, "-q", "--tool=callgrind", "--trace-children=yes", "--error-limit=no", f"--callgrind-out-file={self.files}.%p"]

    def total(self):
        """Instructions of all processes that have ended."""
        total = 0
        for path in glob.glob(self.files + "*"):
            with open(path) as file:
                found = re.search(r"^totals: (\d+)", file.read(), re.M)
            total += int(found[1]) if found else 0
        return total

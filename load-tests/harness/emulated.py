"""Instructions of user and kernel per request, counted in a small emulated machine whose clock is its instruction counter.

QEMU with `-icount shift=0` lets one nanosecond pass for each instruction, so the run time that the kernel accounts to the peer's threads
(schedstat) is the number of instructions that ran for it, in its own code and in the kernel's. No neighbour and no clock of the real machine
moves it, and no counter of its processor is needed. The machine is made anew for each run: one processor, no disk, no network but
loopback, the kernel of this machine, and in its initial file system just what the peer, the upstream and the client need."""
import glob
import os
import re
import shutil
import subprocess

from . import drive

# As a processor of today but for the string moves that the emulation would count byte by byte.
CPU = "max,-erms,-fsrm"
BOOT = "console=ttyS0 quiet panic=-1 tsc=reliable mitigations=off"
SYSTEM = ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"]

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin:/usr/sbin:/sbin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /tmp /run /var/lib/nginx /var/log/nginx; chmod 1777 /tmp
ip link set lo up
ulimit -n 20000
tree() {{ echo $1; for child in $(cat /proc/$1/task/*/children 2>/dev/null); do tree $child; done; }}
spent() {{ sum=0; for pid in $(tree $1); do for file in /proc/$pid/task/*/schedstat; do read ran waited slices < $file && sum=$((sum+ran)); done; done; echo $sum; }}
accepts() {{ tries=0; until nc -w 1 127.0.0.1 $1 < /dev/null > /dev/null 2>&1 || [ $tries -ge 100 ]; do sleep 0.1; tries=$((tries+1)); done; }}
cd {work}
{upstream}
accepts {up}
{peer} > /peer.log 2>&1 &
peer=$!
accepts {port}
sleep 0.5
before=$(spent $peer)
{short} > /short 2>&1
between=$(spent $peer)
{long} > /long 2>&1
after=$(spent $peer)
echo; echo "@counted $((between-before)) $((after-between))"
sed 's/^/@short /' /short
sed 's/^/@long /' /long
tail -n 3 /peer.log | sed 's/^/@log /'
echo @end
poweroff -f
"""


def find():
    """The kernel to boot, where QEMU, busybox and a readable kernel are there."""
    kernels = [path for path in sorted(glob.glob("/boot/vmlinuz-*")) if os.access(path, os.R_OK)]
    there = shutil.which("qemu-system-x86_64") and shutil.which("busybox") and shutil.which("cpio")
    return kernels[-1] if there and kernels else None


def quoted(words):
    return " ".join("'" + str(word).replace("'", "'\\''") + "'" for word in words)


def add(root, path):
    """Copies a file, and the libraries that it is linked to, to where it lies here."""
    found = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
    for file in [path, *re.findall(r"(/[^ \n]+)", found)]:
        target = root + file
        if os.path.exists(file) and not os.path.exists(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy(os.path.realpath(file), target)


def count(bench, what, peer, limit=900):
    """Instructions of user and kernel for one request of a scenario: what a long run has more than a short one, so that its connections
    and their handshakes are in neither."""
    command = peer.prepare(what["config"], what.get("upstream", "UP"))
    durations = (1, 2) if what.get("tool") == "h2load" else (1.5, 3) if what.get("mitm") else (0.4, 1.2)
    clients = [drive.command(bench, peer, what, duration, 0, 0) for duration in durations]
    root = os.path.join(bench.work, "machine")
    shutil.rmtree(root, ignore_errors=True)
    for folder in ("bin", "dev", "proc", "sys"):
        os.makedirs(os.path.join(root, folder))
    shutil.copy(shutil.which("busybox"), os.path.join(root, "bin", "busybox"))
    shutil.copytree(bench.work, root + bench.work, ignore=shutil.ignore_patterns("machine", "machine.cpio", "callgrind", "audit"), symlinks=True)
    upstreams = bench.upstreams
    for program in {command[0], clients[0][0], *(words[0] for words in upstreams)}:
        add(root, shutil.which(str(program)) or program)
    for file in filter(os.path.exists, SYSTEM):
        add(root, file)
    init = INIT.format(work=bench.work, up=bench.ports["UP"], port=peer.port, peer=quoted(command),
                       short=quoted(clients[0]), long=quoted(clients[1]), upstream="\n".join(quoted(words) + " > /dev/null 2>&1 &" for words in upstreams))
    with open(os.path.join(root, "init"), "w") as file:
        file.write(init)
    os.chmod(os.path.join(root, "init"), 0o755)
    image = root + ".cpio"
    subprocess.run(f"find . | cpio -o -H newc --quiet > {image}", cwd=root, shell=True, check=True)
    shutil.rmtree(root)
    said = boot(image, limit)
    os.unlink(image)
    counted = re.search(r"^@counted (\d+) (\d+)", said, re.M)
    runs = [drive.parse(bench, what, "\n".join(re.findall(rf"^@{run} (.*?)\r?$", said, re.M)), duration, 0, 0)
            for run, duration in zip(("short", "long"), durations)]
    wrong = [run["error"] for run in runs if run.get("error")]
    wrong += [f"{run['errors']} errors and {run['non2xx']} answers other than 2xx of {run['all']}" for run in runs
              if not run.get("error") and (run["errors"] or run["non2xx"])]
    if not counted or wrong or runs[1]["all"] <= runs[0]["all"]:
        raise RuntimeError(f"{wrong or 'it counted nothing'}; {' '.join(re.findall(r'^@log (.*)', said, re.M))[-300:]}")
    more = runs[1]["all"] - runs[0]["all"]
    return round((int(counted[2]) - int(counted[1])) / more / 1e3, 1), more


def boot(image, limit):
    words = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-icount", "shift=0,sleep=off", "-cpu", CPU, "-m", "3072", "-smp", "1",
             "-nographic", "-no-reboot", "-net", "none", "-kernel", find(), "-initrd", image, "-append", BOOT]
    try:
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=limit).stdout
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"the emulated machine did not end within {limit} s") from None

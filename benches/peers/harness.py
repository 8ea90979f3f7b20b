"""What the scripts that measure share: running drivers, the sink, and a wire with a delay."""
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE / "target"))
BIN = TARGET / "release"
PORT = int(os.environ.get("PEERS_PORT", "2600"))
PLAIN, TLS, STARTTLS, CARELESS = range(PORT, PORT + 4)
PORTS = {"plain": PLAIN, "tls": TLS, "starttls": STARTTLS}
HOST, FAR = "127.0.0.1", "10.99.0.2"
WORK = pathlib.Path(tempfile.mkdtemp(prefix="peers."))
os.environ["PEERS_CA"] = str(WORK / "ca.pem")
os.environ["SMOL_THREADS"] = "2"  # as many as the drivers over tokio have

POSTINO, AIO, LETTRE, MAIL_SEND = "drive-postino", "drive-postino-async", "drive-lettre", "drive-mail-send"
ASYNC_SMTP, LIMIT = "drive-async-smtp", "limit"


def build():
    """Builds the drivers of the Rust libraries, the servers and preload.so."""
    cargo = ["cargo", "build", "--release", "--locked", "--manifest-path", str(HERE / "Cargo.toml")]
    subprocess.run(cargo + ["--target-dir", str(TARGET)], check=True)
    shared = ["gcc", "-O2", "-w", "-shared", "-fPIC", "-o", str(TARGET / "preload.so"), str(HERE / "preload.c"), "-ldl"]
    subprocess.run(shared, check=True)


class Sink:
    """A sink, optionally in a network namespace. Reading its counters resets them."""

    def __init__(self, address=HOST, namespace=()):
        self.address, self.namespace = address, list(namespace)
        pathlib.Path(os.environ["PEERS_CA"]).unlink(missing_ok=True)
        command = self.namespace + [str(BIN / "sink"), address, str(PORT), os.environ["PEERS_CA"]]
        self.process = subprocess.Popen(command)
        while not os.path.exists(os.environ["PEERS_CA"]):
            assert self.process.poll() is None, "the sink did not start; is the port in use?"
            time.sleep(0.01)

    def pin(self, cpus):
        subprocess.run(["taskset", "-acp", cpus, str(self.process.pid)], check=True, stdout=subprocess.DEVNULL)

    def counts(self):
        ask = f"exec 3<>/dev/tcp/{self.address}/{PLAIN}; printf 'XCOUNT\\r\\nQUIT\\r\\n' >&3; cat <&3"
        text = subprocess.run(self.namespace + ["bash", "-c", ask], check=True, capture_output=True).stdout
        return json.loads(re.search(rb"\{.*\}", text).group(0))

    def stop(self):
        self.process.kill()
        self.process.wait()


def run(command, cpu=None, extra=None, prefix=()):
    """One run: the driver's output and the system's counters. `wall` is the time of the whole process."""
    environment = dict(os.environ, **(extra or {}))
    if extra:
        environment["LD_PRELOAD"] = str(TARGET / "preload.so")
    if cpu is not None:
        command = ["taskset", "-c", str(cpu)] + command
    begun = time.monotonic()
    process = subprocess.Popen(
        list(prefix) + command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    # They print one or two lines, so no pipe fills up.
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - begun
    process.returncode = status
    out, err = process.stdout.read().decode(), process.stderr.read().decode()
    if status:
        raise RuntimeError(f"{command} failed: {err[-500:]}")
    result = {"wall": wall, "seconds": wall, "cpu": usage.ru_utime + usage.ru_stime, "peak": float("nan")}
    if line := re.search(r"\{.*\}", out):
        result.update(json.loads(line.group(0)))
    if line := re.search(r"allocations: (\d+)", err):
        result["allocations"] = int(line.group(1))
    return result


def drive(driver, way, count, message="1k.eml", security="plain", host=HOST, connections=1):
    port, path = PORTS[security], WORK / message
    return [str(BIN / driver), way, security, host, str(port), str(count), str(path), str(connections)]


def interleave(jobs, rounds):
    """Runs each job once per round, and returns the medians of their results."""
    results = {name: [] for name in jobs}
    for number in range(rounds):
        for name, job in jobs.items():
            try:
                results[name].append(job())
            except RuntimeError as e:
                print(f"!! {name}: {e}", file=sys.stderr)
        print(f"   round {number + 1} of {rounds}", file=sys.stderr)
    table = {}
    for name, all_of_it in results.items():
        if all_of_it:
            table[name] = {k: statistics.median(r[k] for r in all_of_it) for k in all_of_it[0]}
    return table


def table(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


class Wire:
    """Two network namespaces with a round-trip time of 20 ms. With `to_loopback`, 127.0.0.1 in the first one is that of the
    second one, so that servers that listen only there can be reached over the wire."""

    def __init__(self, to_loopback=False):
        self.to_loopback = to_loopback

    def __enter__(self):
        self.namespaces = [f"peers{end}{os.getpid()}" for end in "AB"]
        a, b = self.namespaces
        for namespace in self.namespaces:
            subprocess.run(["ip", "netns", "add", namespace], check=True)
            if namespace == b or not self.to_loopback:
                subprocess.run(["ip", "-n", namespace, "link", "set", "lo", "up"], check=True)
        self.process = subprocess.Popen([str(BIN / "wire"), a, b, "10"])
        time.sleep(0.5)
        for namespace, address in ((a, "10.99.0.1/24"), (b, FAR + "/24")):
            subprocess.run(["ip", "-n", namespace, "addr", "add", address, "dev", "wire0"], check=True)
            up = ["link", "set", "wire0", "up", "txqueuelen", "10000"]
            subprocess.run(["ip", "-n", namespace] + up, check=True)
            if self.to_loopback:
                allow = "echo 1 >/proc/sys/net/ipv4/conf/wire0/route_localnet"
                subprocess.run(["ip", "netns", "exec", namespace, "sh", "-c", allow], check=True)
        if self.to_loopback:
            route = ["route", "add", "127.0.0.0/8", "dev", "wire0", "src", "10.99.0.1"]
            subprocess.run(["ip", "-n", a] + route, check=True)
        return ["ip", "netns", "exec", a], ["ip", "netns", "exec", b]

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        for namespace in self.namespaces:
            subprocess.run(["ip", "netns", "del", namespace], check=False)


def told(*command):
    """The first line that a command prints."""
    return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0]


def version(name):
    """The version of a crate that the drivers use."""
    return re.search(rf'name = "{name}"\nversion = "([^"]+)"', (HERE / "Cargo.lock").read_text()).group(1)


def machine():
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return (
        f"{os.cpu_count()} x {cpu.group(1) if cpu else platform.machine()}, Linux {platform.release()}, "
        f"{told('rustc', '-V')}, {told('openssl', 'version')}"
    )

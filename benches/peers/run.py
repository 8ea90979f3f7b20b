#!/usr/bin/env python3
"""Runs all drivers against the sink, interleaved, and writes ../RESULTS.md.

    run.py [--rounds N] [--only PART,PART] [--out FILE]

The parts are those in PARTS below. Every figure is the median of N rounds (default 5). `latency` needs root (for two network
namespaces and TUN devices), `counts` strace, and `large` curl. Parts that cannot be measured say so.
"""
import argparse
import datetime
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading

from harness import (
    AIO, ASYNC_SMTP, FAR, HERE, HOST, LETTRE, LIMIT, MAIL_SEND, PORTS, POSTINO, TARGET, WORK, Sink, Wire, build,
    drive, interleave, machine, run, table, told, version,
)

NODELAY = {"PEERS_NODELAY": "1"}
# OpenSSL takes some 20 ms to parse the system's CAs, and native-tls does it twice. curl, with its own CA, does not.
NO_CAS = ["env", "SSL_CERT_FILE=/dev/null", "SSL_CERT_DIR=/nonexistent"]

# Peers that stall on Nagle's algorithm also run with TCP_NODELAY forced on, which is not what their users get.
PEERS = {
    "lettre conn": (LETTRE, "conn", {}),
    "lettre conn +nodelay": (LETTRE, "conn", NODELAY),
    "lettre pool": (LETTRE, "pool", {}),
    "lettre pool +nodelay": (LETTRE, "pool", NODELAY),
    "lettre tokio pool": (LETTRE, "tokio", {}),
    "lettre tokio pool +nodelay": (LETTRE, "tokio", NODELAY),
    "mail-send": (MAIL_SEND, "conn", {}),
    "mail-send +nodelay": (MAIL_SEND, "conn", NODELAY),
    "async-smtp": (ASYNC_SMTP, "conn", {}),
}
OURS = {
    "postino": (POSTINO, "batch", {}),
    "postino async": (AIO, "batch", {}),
    "postino chunking": (POSTINO, "chunk", {}),
    "postino async chunking": (AIO, "chunk", {}),
    "postino send": (POSTINO, "send", {}),
    "postino async send": (AIO, "send", {}),
}
LIMITS = {f"limit {way}": (LIMIT, way, {}) for way in ("seq", "a", "b", "c")}
STALLS = {"lettre conn", "lettre pool", "lettre tokio pool", "mail-send"}


def messages():
    """The messages: 1 KiB, and 100 MiB of lines with and without dots."""
    head = b"From: <a@example.org>\r\nTo: <b@example.net>\r\nSubject: bench\r\n\r\n"
    line = b"A" * 76 + b"\r\n"
    small = head + line * ((1024 - len(head)) // len(line))
    (WORK / "1k.eml").write_bytes(small + b"y" * (1024 - len(small) - 2) + b"\r\n")
    lines = (100 << 20) // len(line)
    for name, line in (("big.eml", line), ("dots.eml", b"." + line[1:])):
        with open(WORK / name, "wb") as file:
            file.write(head)
            for _ in range(lines // 1000):
                file.write(line * 1000)


def best_of(results, key="rate"):
    """The best peer, without forced settings."""
    rates = [results[name][key] for name in PEERS if name in results and "+nodelay" not in name]
    return max(rates, default=float("nan"))


def one(rounds):
    """One connection, 1 KiB, client and sink on one CPU."""
    sink = Sink()
    sink.pin("0")

    def job(driver, way, extra, count):
        def measure():
            sink.counts()
            result = run(drive(driver, way, count), cpu=0, extra=extra)
            counts = sink.counts()
            if counts["messages"] != count:
                raise RuntimeError(f"{counts['messages']} messages of {count} arrived")
            result["rate"] = count / result["seconds"]
            result["cpu"] *= 1e6 / count
            result["flights"] = counts["reads"] / count
            return result

        return measure

    jobs = {}
    for name, (driver, way, extra) in (OURS | LIMITS | PEERS).items():
        fast = "chunk" in name or name == "limit c"
        count = 60 if name in STALLS else 200_000 if fast else 10_000
        jobs[name] = job(driver, way, extra, count)
    results = interleave(jobs, rounds)
    sink.stop()
    best, b, c = best_of(results), results["limit b"]["rate"], results["limit c"]["rate"]
    rows = [
        (name, f"{r['rate']:,.0f}", f"{r['rate'] / best:.2f}", f"{r['rate'] / b:.2f}", f"{r['rate'] / c:.3f}",
         f"{r['cpu']:.1f}", f"{r['peak']:.1f}", f"{r['flights']:.2f}")
        for name, r in results.items()
    ]
    heads = ["1 KiB, one connection, one CPU", "messages/s", "x best peer", "x limit b", "x limit c",
             "CPU ms / 1,000", "peak MiB", "sink reads / message"]
    return table(heads, rows)


def counts(rounds):
    """System calls and allocations per message, as the difference between two runs."""
    if not shutil.which("strace"):
        return "Not counted: strace is missing.\n"
    sink = Sink()

    def calls(command, extra):
        prefix = ["strace", "-c", "-f", "-q", "-o", str(WORK / "strace")]
        if extra:
            prefix += ["-E", f"LD_PRELOAD={TARGET / 'preload.so'}"] + [f"-E{k}={v}" for k, v in extra.items()]
        run(prefix + command)
        found = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)(?:\s+\d+)?\s+(\w+)$", (WORK / "strace").read_text(), re.M)
        return {name: int(n) for n, name in found if name != "total"}

    rows = []
    for name, (driver, way, extra) in (OURS | LIMITS | PEERS).items():
        if name in STALLS:
            continue
        few, many = (100, 20_100) if "chunk" in name or name == "limit c" else (100, 1_100)
        low, high = (calls(drive(driver, way, n), extra) for n in (few, many))
        each = {call: (high.get(call, 0) - low.get(call, 0)) / (many - few) for call in high}
        counted = dict(extra, PEERS_ALLOCATIONS="1")
        low, high = (run(drive(driver, way, n), extra=counted)["allocations"] for n in (few, many))
        detail = " ".join(f"{call} {n:.2f}" for call, n in sorted(each.items(), key=lambda x: -x[1]) if n >= 0.01)
        rows.append((name, f"{sum(each.values()):.2f}", f"{(high - low) / (many - few):.2f}", detail))
    sink.stop()
    return table(["per message", "system calls", "allocations", "which calls"], rows)


def instructions(rounds):
    """User-space instructions per message, counted by callgrind, as the difference between two runs. Nearly the same in every run."""
    if not shutil.which("valgrind"):
        return "Not counted: valgrind is missing.\n"
    sink = Sink()

    def executed(driver, way, count):
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={WORK / 'callgrind'}"]
        run(command + drive(driver, way, count))
        return int(re.search(r"^(?:totals|summary): (\d+)", (WORK / "callgrind").read_text(), re.M).group(1))

    rows = []
    for name, (driver, way, extra) in (OURS | LIMITS | PEERS).items():
        if not extra and name not in STALLS:
            rows.append((name, f"{(executed(driver, way, 1_200) - executed(driver, way, 200)) / 1_000:,.0f}"))
    sink.stop()
    return table(["1 KiB, one connection", "instructions / message"], rows)


def large(rounds):
    """One message of 100 MiB; sink and client on separate CPUs."""
    sink = Sink()
    sink.pin("0")
    megabytes = (WORK / "big.eml").stat().st_size / 1e6

    def job(command):
        def measure():
            sink.counts()
            result = run(command, cpu=1)
            if sink.counts()["messages"] != 1:
                raise RuntimeError("the message did not arrive")
            result["rate"], result["all"] = megabytes / result["seconds"], megabytes / result["wall"]
            return result

        return measure

    ways = {
        "postino": (POSTINO, "file"), "postino async": (AIO, "file"), "limit": (LIMIT, "file"),
        "lettre conn": (LETTRE, "conn"), "lettre tokio pool": (LETTRE, "tokio"), "mail-send": (MAIL_SEND, "conn"),
        "async-smtp": (ASYNC_SMTP, "conn"),
    }
    text = ""
    for security, message, before in (
        ("plain", "big.eml", []), ("plain", "dots.eml", []), ("tls", "big.eml", NO_CAS), ("tls", "dots.eml", NO_CAS),
        ("tls", "big.eml", []), ("tls", "dots.eml", []),
    ):
        jobs = {name: job(before + drive(driver, way, 1, message, security)) for name, (driver, way) in ways.items()}
        if before:
            jobs.pop("mail-send")  # cannot start without CAs
        if message == "dots.eml":
            jobs.pop("mail-send", None)  # takes a minute: two writes per dot
        if shutil.which("curl"):
            scheme = "smtps" if security == "tls" else "smtp"
            jobs["curl"] = job([
                "curl", "-s", "--cacert", os.environ["PEERS_CA"], "--url", f"{scheme}://{HOST}:{PORTS[security]}/localhost",
                "--mail-from", "a@example.org", "--mail-rcpt", "b@example.net", "-T", str(WORK / message),
            ])
        results = interleave(jobs, rounds)
        curl, limit = results.get("curl", {}).get("all", float("nan")), results["limit"]
        rows = [
            (name, f"{r['rate']:,.0f}", f"{r['all']:,.0f}", f"{r['rate'] / limit['rate']:.2f}",
             f"{r['all'] / limit['all']:.2f}", f"{r['all'] / curl:.2f}", f"{r['cpu']:.3f}", f"{r['peak']:.1f}")
            for name, r in results.items()
        ]
        heads = [f"100 MiB, {message}, {security}{', no CAs to parse' if before else ''}", "MB/s", "MB/s, whole process", "x limit", "x limit, whole process",
                 "x curl, whole process", "CPU s", "peak MiB"]
        text += table(heads, rows) + "\n"
    sink.stop()
    return text


def many(rounds):
    """10,000 messages over 16 and 64 connections, on all CPUs."""
    sink = Sink()
    jobs, text = {}, ""

    def job(command, count):
        def measure():
            sink.counts()
            result = run(command[0], extra=command[1])
            if sink.counts()["messages"] != count:
                raise RuntimeError("some messages did not arrive")
            result["rate"], result["cpu"] = count / result["seconds"], result["cpu"] * 1e6 / count
            return result

        return measure

    for connections in (16, 64):
        jobs = {}
        for name, (driver, way, extra) in (OURS | LIMITS | PEERS).items():
            fast = "chunk" in name or name == "limit c"
            count = 1_500 if name in STALLS else 200_000 if fast else 10_000
            jobs[name] = job((drive(driver, way, count, connections=connections), extra), count)
        results = interleave(jobs, rounds)
        best = best_of(results)
        rows = [
            (name, f"{r['rate']:,.0f}", f"{r['rate'] / best:.2f}", f"{r['cpu']:.1f}", f"{r['peak']:.1f}")
            for name, r in results.items()
        ]
        heads = [f"1 KiB, {connections} connections", "messages/s", "x best peer", "CPU ms / 1,000", "peak MiB"]
        text += table(heads, rows) + "\n"
    sink.stop()
    return text


def latency(rounds):
    """A round trip takes 20 ms. Round trips per message are the difference between two runs; the first mail is a whole run."""
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
        return "Not measured: root and /dev/net/tun are needed.\n"
    trip = 0.020
    with Wire() as (here, there):
        sink = Sink(FAR, there)

        def at_once(commands):
            """Runs all at the same time, because they mostly wait."""
            results = {}

            def one(name, command, extra):
                results[name] = run(command, extra=extra, prefix=here)["seconds"]

            threads = [threading.Thread(target=one, args=(n, c, e)) for n, (c, e) in commands.items()]
            [t.start() for t in threads]
            [t.join() for t in threads]
            return results

        everyone = OURS | LIMITS | PEERS
        spent = {name: [] for name in everyone}
        for number in range(rounds):
            runs = []
            for n in (20, 220):
                count = {name: n * 10 if "chunk" in name or name == "limit c" else n for name in everyone}
                runs.append(at_once({
                    name: (drive(driver, way, count[name], host=FAR), extra)
                    for name, (driver, way, extra) in everyone.items()
                }))
            for name in everyone:
                difference = 2000 if count[name] == 2200 else 200
                if name in runs[0] and name in runs[1]:
                    spent[name].append((runs[1][name] - runs[0][name]) / difference / trip)
            print(f"   round {number + 1} of {rounds}", file=sys.stderr)
        rows = [(name, f"{statistics.median(all_of_it):.3f}") for name, all_of_it in spent.items() if all_of_it]
        text = table(["20 ms round-trip time, one connection", "round trips / message"], rows) + "\n"

        first = {
            "postino::send": (POSTINO, "new"), "postino::aio::send": (AIO, "new"),
            "lettre": (LETTRE, "new"), "lettre tokio": (LETTRE, "tokio-new"), "mail-send": (MAIL_SEND, "new"),
            "async-smtp": (ASYNC_SMTP, "new"),
        }
        jobs = {}
        for name, (driver, way) in first.items():
            for security in PORTS:
                command = drive(driver, way, 1, security=security, host=FAR)
                jobs[name, security] = lambda command=command: run(command, prefix=here)
                if driver == MAIL_SEND or security == "plain":
                    continue
                # Also without the system's CAs, whose parsing takes as long as two round trips.
                jobs[name, security, "bare"] = lambda command=NO_CAS + command: run(command, prefix=here)
        results = interleave(jobs, rounds)
        trips = lambda *key: f"{results[key]['seconds'] / trip:.2f}" if key in results else "–"
        rows = [
            (name, trips(name, "plain"), trips(name, "tls", "bare"), trips(name, "starttls", "bare"), trips(name, "tls"),
             trips(name, "starttls"))
            for name in first
        ]
        heads = ["first mail on a fresh connection, in round trips", "plain", "TLS 1.3, no CAs to parse",
                 "STARTTLS, no CAs to parse", "TLS 1.3", "STARTTLS"]
        text += table(heads, rows)
        sink.stop()
    return text


def pipelining(rounds):
    """60 messages of 1 KiB over one connection, pipelined and one command at a time: medians in ms per message, and medians
    of the ratios of pairs. Includes the real servers that `tests/interop/servers up` has started."""
    command = ["cargo", "bench", "--locked", "--quiet", "--features", "async", "--bench", "pipelining", "--", str(rounds)]
    return subprocess.run(command, cwd=HERE.parent.parent, check=True, capture_output=True, text=True).stdout


PARTS = {
    "one": one, "counts": counts, "instructions": instructions, "latency": latency, "large": large, "many": many,
    "pipelining": pipelining,
}


def about(rounds):
    names = ("lettre", "mail-send", "async-smtp", "tokio", "smol", "native-tls", "openssl")
    return (
        f"{datetime.date.today()}, {rounds} rounds. {machine()}, {told('curl', '-V')[:12]}. "
        + ", ".join(f"{name} {version(name)}" for name in names)
        + f". postino at {told('git', '-C', str(HERE), 'rev-parse', '--short', 'HEAD')}.\n"
    )


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--only", default=",".join(PARTS))
    arguments.add_argument("--out", default=str(HERE.parent / "RESULTS.md"))
    options = arguments.parse_args()
    build()
    messages()
    text = "# Measured\n\nWritten by `benches/peers/run.py`; its README explains the rows.\n\n" + about(options.rounds)
    for name in options.only.split(","):
        print(f"{name}: {PARTS[name].__doc__}", file=sys.stderr)
        part = f"\n## {name}\n\n{PARTS[name].__doc__}\n\n" + PARTS[name](options.rounds)
        print(part)
        text += part
        pathlib.Path(options.out).write_text(text)
    shutil.rmtree(WORK)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()

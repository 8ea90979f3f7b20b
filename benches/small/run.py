#!/usr/bin/env python3
"""Size, peak memory and CPU time of the sendmail program for one mail, beside other small mail programs.

    run.py [--rounds N] [--variant NAME]... [--built]

Builds each variant of the program (see VARIANTS), and runs all programs in turns against a server in this process, once in
clear and once over implicit TLS, with the certificates of the system and one more to trust. Prints a table in Markdown: every
figure is the median of N rounds (default 41). A variant that cannot be built, or a program that cannot run, says so. A second
table says where the bytes of the static programs are. `--built` uses the programs of an earlier run.
`benches/small/RESULTS.md` has the last results.

Needs: cargo, openssl, musl-tools, and root for dma. The other programs are those of Debian: `apt-get download` fetches them, and
nothing is installed, because their packages exclude each other. Their libraries must be there:

    apt-get install --no-install-recommends libcurl4 libgnutls30 libgnutls-openssl27 libgsasl18 libsecret-1-0 libssl3
"""
import argparse
import collections
import datetime
import os
import pathlib
import platform
import re
import shlex
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "small-programs"
SYSTEM_CAS = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
MUSL = "x86_64-unknown-linux-musl"
ALL = "config,smtp-server,spool"
# name: (target, features)
VARIANTS = {
    "sendmail, static, no TLS": (MUSL, ""),
    "sendmail, static, rustls": (MUSL, "rustls"),
    "sendmail, static, rustls, everything": (MUSL, f"rustls,{ALL}"),
    "sendmail, glibc, native-tls": (None, "native-tls"),
    "sendmail, glibc, native-tls, everything": (None, f"native-tls,{ALL}"),
    "sendmail, glibc, rustls": (None, "rustls"),
}
# The linker options of src/guide/small_and_static_builds.md, no unwinding tables and the outliner, as in
# tools/sendmail/build-static.
GLIBC_FLAGS = ["-Cforce-unwind-tables=no", "-Cllvm-args=-enable-machine-outliner=always"] + [
    f"-Clink-arg=-Wl,{option}"
    for option in ("-z,pack-relative-relocs", "--icf=all", "--no-eh-frame-hdr", f"-T,{ROOT}/tools/sendmail/no-unwinding.ld")
]
# name: the program in its package, which has the same name
PEERS = {"msmtp": "usr/bin/msmtp", "ssmtp": "usr/sbin/ssmtp", "dma": "usr/sbin/dma", "curl": "usr/bin/curl"}
MESSAGE = b"From: a@example.org\nTo: b@example.net\nSubject: Hi\n\n" + b"A line of text.\n" * 60


def serve(work):
    """Starts a server in clear and one over TLS, each in a thread, and returns their ports."""
    key, certificate, ca = work / "key.pem", work / "cert.pem", work / "ca.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split()
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
    issuer = ["-CA", ca, "-CAkey", work / "ca.key"]
    for rest in (["-subj", "/CN=test CA", "-keyout", work / "ca.key", "-out", ca],
                 ["-subj", "/CN=localhost", "-keyout", key, "-out", certificate, *issuer, *names]):
        subprocess.run([*command, *rest], check=True, stderr=subprocess.DEVNULL)
    (work / "cas.pem").write_bytes(SYSTEM_CAS.read_bytes() + ca.read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    ports = []
    for tls in (None, context):
        listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=accept, args=(listener, tls), daemon=True).start()
        ports.append(listener.getsockname()[1])
    return ports


# The number of messages that have arrived.
arrived = [0]


def accept(listener, tls):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=talk, args=(connection, tls), daemon=True).start()


def talk(connection, tls):
    try:
        if tls:
            connection = tls.wrap_socket(connection, server_side=True)
        file = connection.makefile("rwb", buffering=0)
        file.write(b"220 localhost ESMTP\r\n")
        lines = iter(file.readline, b"")
        for line in lines:
            verb = line[:4].upper()
            if verb == b"DATA":
                file.write(b"354 go on\r\n")
                for text in lines:
                    if text == b".\r\n":
                        arrived[0] += 1
                        break
                file.write(b"250 2.0.0 stored\r\n")
            elif verb == b"EHLO":
                file.write(b"250-localhost\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
            elif verb == b"QUIT":
                file.write(b"221 bye\r\n")
                break
            else:
                file.write(b"250 ok\r\n")
        connection.close()
    except OSError:
        pass


def build(name, built_before):
    """Builds a variant, and returns the path of the stripped program. The one with symbols is beside it."""
    target, features = VARIANTS[name]
    stripped = TARGET / re.sub("[ ,]+", "-", name)
    if built_before:
        if not stripped.exists():
            raise FileNotFoundError(stripped)
        return stripped
    env = {**os.environ, "CARGO_TARGET_DIR": str(TARGET), "CARGO_PROFILE_SMALL_STRIP": "false"}
    if target:
        command = [ROOT / "tools/sendmail/build-static", target, features]
        built = subprocess.run(command, check=True, env=env, stdout=subprocess.PIPE, text=True).stdout.strip()
    else:
        env["CARGO_ENCODED_RUSTFLAGS"] = "\x1f".join(GLIBC_FLAGS)
        command = ["cargo", "build", "--locked", "--quiet", "--profile", "small", "--package", "postino-sendmail"]
        subprocess.run([*command, "--no-default-features", "--features", features], check=True, cwd=ROOT, env=env)
        built = TARGET / "small/sendmail"
    shutil.copy(built, stripped.with_suffix(".symbols"))
    subprocess.run(["strip", "-o", stripped, built], check=True)
    return stripped


def fetch(names):
    """Downloads and unpacks Debian packages, and returns the paths of the programs and their versions."""
    folder = TARGET / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in names:
        packages = sorted(folder.glob(f"{name}_*.deb"))
        if not packages:
            subprocess.run(["apt-get", "-qq", "download", name], cwd=folder, stderr=subprocess.DEVNULL)
            packages = sorted(folder.glob(f"{name}_*.deb"))
        if packages:
            subprocess.run(["dpkg-deb", "-x", packages[-1], folder / name], check=True)
            version = subprocess.run(["dpkg-deb", "-f", packages[-1], "Version"], capture_output=True, text=True)
            found[name] = folder / name / PEERS[name], version.stdout.strip()
    return found


def commands(program, kind, port, tls, work):
    """Returns the command to send MESSAGE, and the environment."""
    env = {"SSL_CERT_FILE": str(work / "cas.pem"), "PATH": os.environ["PATH"], "HOME": str(work)}
    scheme = "smtps" if tls else "smtp"
    if kind == "sendmail":
        # The folder has no configuration: that of this machine must not matter.
        env["POSTINO_ROOT"] = str(work)
        return [program, "-s", f"{scheme}://localhost:{port}", "-f", "a@example.org", "b@example.net"], env
    if kind == "msmtp":
        trust = [f"--tls-trust-file={work}/cas.pem", "--tls-starttls=off"] if tls else []
        switch = "on" if tls else "off"
        return [program, "--host=localhost", f"--port={port}", f"--tls={switch}", *trust, "--from=a@example.org", "--auth=off",
                "b@example.net"], env
    if kind == "curl":
        return [program, "-sS", "--cacert", work / "cas.pem", "--mail-from", "a@example.org", "--mail-rcpt", "b@example.net",
                "-T", "-", f"{scheme}://localhost:{port}"], env
    if kind == "dma":
        # It reads its configuration in /etc/dma only, which is a folder in `work` here: see `private_etc`.
        (work / "etc-dma/dma.conf").write_text(
            f"SMARTHOST localhost\nPORT {port}\nSPOOLDIR {work}/dma-spool\n" + ("SECURETRANSFER\n" if tls else ""))
        return [program, "-D", "-f", "a@example.org", "b@example.net"], env
    config = work / f"ssmtp-{port}.conf"  # ssmtp
    config.write_text(f"mailhub=localhost:{port}\nhostname=localhost\nFromLineOverride=YES\nUseTLS={'YES' if tls else 'NO'}\n"
                      f"TLS_CA_File={work}/cas.pem\n")
    return [program, f"-C{config}", "-fa@example.org", "b@example.net"], env


def private_etc():
    """Starts this program again where it can mount, if it is run by root, and returns whether it can."""
    if os.environ.get("SMALL_PRIVATE") == "1":
        return True
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return False
    os.environ["SMALL_PRIVATE"] = "1"
    os.execvp("unshare", ["unshare", "--mount", sys.executable, __file__, *sys.argv[1:]])


def prepare_dma(work):
    """Makes the folders of dma: it gives up root's rights, so others must be able to write there."""
    for name in ("etc-dma", "dma-spool"):
        (work / name).mkdir()
        (work / name).chmod(0o777)
    work.chmod(0o755)
    # A file system of its own below /etc, so that the folder need not exist on this machine.
    overlay = ["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={work}/etc-over:/etc", "/etc"]
    (work / "etc-over/dma").mkdir(parents=True)
    subprocess.run(overlay, check=True)
    subprocess.run(["mount", "--bind", work / "etc-dma", "/etc/dma"], check=True)


def run(measure, command, env, work):
    """Runs a command, and returns its CPU time in ms and its peak memory in MiB."""
    before = arrived[0]
    reader, writer = os.pipe()
    with open(work / "message", "rb") as message, open(work / "errors", "wb") as errors:
        actions = [(os.POSIX_SPAWN_DUP2, message.fileno(), 0), (os.POSIX_SPAWN_DUP2, errors.fileno(), 1),
                   (os.POSIX_SPAWN_DUP2, errors.fileno(), 2), (os.POSIX_SPAWN_DUP2, writer, 3)]
        pid = os.posix_spawn(measure, [str(word) for word in (measure, *command)], env, file_actions=actions)
        os.close(writer)
        with os.fdopen(reader) as figures:
            line = figures.read()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code or arrived[0] != before + 1:
        raise RuntimeError(f"exit code {code}, {arrived[0] - before} messages: {(work / 'errors').read_text().strip()[:200]}")
    cpu, memory = line.split()
    return int(cpu) / 1000, int(memory) / 1024


def output(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def machine():
    """Returns lines about this machine, the command and the versions."""
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    system = re.search(r'PRETTY_NAME="(.*)"', pathlib.Path("/etc/os-release").read_text())
    return [
        f"- {datetime.date.today()}, `{shlex.join(['benches/small/run.py', *sys.argv[1:]])}`",
        f"- {system and system[1]}, Linux {platform.release()}, {os.cpu_count()} CPUs ({cpu and cpu[1]}), "
        f"load {os.getloadavg()[0]:.1f} at the end",
        f"- {output('rustc', '-V')}",
    ]


def table(args, work, can_mount):
    plain, tls = serve(work)
    measure = work / "measure"
    source = ROOT / "benches/small/measure.c"
    subprocess.run(["musl-gcc", "-static", "-Os", "-s", "-o", measure, source], check=True)
    programs, notes = {}, []
    for name in args.variant or VARIANTS:
        try:
            programs[name] = ("sendmail", build(name, args.built))
        except (subprocess.CalledProcessError, FileNotFoundError):
            notes.append(f"{name}: {'was not built' if args.built else 'cannot be built here'}")
    versions = []
    fetched = fetch(PEERS)
    for name in PEERS:
        if name not in fetched:
            notes.append(f"{name}: cannot be downloaded")
        elif name == "dma" and not can_mount:
            notes.append("dma: needs root")
        else:
            path, version = fetched[name]
            programs[name] = (name, path)
            versions.append(f"{name} {version}")
    if "dma" in programs:
        prepare_dma(work)

    figures = {name: {False: [], True: []} for name in programs}
    failed = set()
    for _ in range(args.rounds):
        for secure in (False, True):
            for name, (kind, path) in programs.items():
                if (name, secure) in failed or (secure and "no TLS" in name):
                    continue
                try:
                    command, env = commands(path, kind, tls if secure else plain, secure, work)
                    figures[name][secure].append(run(measure, command, env, work))
                except RuntimeError as e:
                    failed.add((name, secure))
                    notes.append(f"{name}{' over TLS' if secure else ''}: {e}")

    def cell(samples, column, digits):
        return f"{statistics.median(s[column] for s in samples):.{digits}f}" if samples else "-"

    print("\n".join(machine()))
    print(f"- Debian packages: {', '.join(versions)}\n")
    print("| program | kB | libraries | plain: MiB | plain: CPU ms | TLS: MiB | TLS: CPU ms |")
    print("|---|---|---|---|---|---|---|")
    for name, (_, path) in programs.items():
        libraries = output("ldd", path).count("=> /")
        cells = [cell(figures[name][secure], *c) for secure in (False, True) for c in ((1, 1), (0, 2))]
        print(f"| {name} | {path.stat().st_size / 1000:.0f} | {libraries} | {' | '.join(cells)} |")
    for note in notes:
        print(f"\n{note}")
    where({name: path for name, (_, path) in programs.items() if VARIANTS.get(name, (None,))[0]})
    return 1 if failed else 0


# Where a symbol belongs, by its demangled name: the first that matches. Generic code belongs to the crate that it is part of.
OWNERS = [
    ("backtraces of panics (std)", r"gimli|addr2line|miniz_oxide|rustc_demangle|libunwind|_Unwind|backtrace|unw_|\bobject::"),
    ("the program", r"\bsendmail::"),
    ("postino", r"\bpostino::"),
    ("rustls", r"\brustls(_\w+)?::|\bwebpki::"),
    # Its C and assembly: P-256 alone has a table of 152 kB.
    ("ring", r"\bring::|ring_core|nistz|p256|p384|25519|^_?(ge|fe|fiat|bn|gcm|aes\w*|chacha\w*|poly\w*|sha\d+|mulx?4x)_"),
    ("TOML", r"\btoml\w*::|\bwinnow::|serde_spanned"),
    ("other crates", r"\b(base64|email_\w+|lexopt|log|memchr|rustix|native_tls|openssl\w*|httparse|pki_types)::"),
    ("std, core, alloc", r"\b(std|core|alloc|hashbrown)::"),
]


OTHERS = "C: libc, and other symbols"


def owner(name):
    return next((title for title, pattern in OWNERS if re.search(pattern, name)), OTHERS)


def where(programs):
    """Prints what programs consist of, in kB: the sizes of the symbols, and the rest."""
    sums = {}
    for name, path in programs.items():
        total = collections.Counter()
        symbols = path.with_suffix(".symbols")
        if not symbols.exists():
            continue
        for line in output("nm", "-C", "-S", symbols).splitlines():
            found = re.match(r"\w+ (\w+) (\w) (.*)", line)
            if found and found[2] not in "bB":
                total[owner(found[3])] += int(found[1], 16)
        size = path.stat().st_size
        total["texts, constants, tables, headers"] = size - sum(total.values())
        total["total"] = size
        sums[name] = total
    titles = [title for title, _ in OWNERS] + [OTHERS, "texts, constants, tables, headers", "total"]
    print("\n| kB | " + " | ".join(sums) + " |")
    print("|---" * (len(sums) + 1) + "|")
    for title in titles:
        print(f"| {title} | " + " | ".join(f"{total[title] / 1000:.0f}" for total in sums.values()) + " |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="default: all")
    parser.add_argument("--built", action="store_true", help="use the programs of an earlier run")
    args = parser.parse_args()
    can_mount = private_etc()
    work = pathlib.Path(tempfile.mkdtemp(prefix="small."))
    (work / "message").write_bytes(MESSAGE)
    try:
        return table(args, work, can_mount)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

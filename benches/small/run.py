#!/usr/bin/env python3
"""Size, peak memory and CPU time of the sendmail program for one mail, beside other small mail programs.

    run.py [--rounds N] [--only NAME,NAME]

Builds each variant of the program (see VARIANTS), and runs all programs in turns against a server in this process, once in
clear and once over implicit TLS, with the certificates of the system and one more to trust. Prints a table in Markdown: every
figure is the median of N rounds (default 41). A variant that cannot be built, or a program that is not installed, says so.

Needs: cargo, openssl, time (GNU), rustup targets x86_64-unknown-linux-musl (and musl-tools) for the static variants, and of the other
programs those to compare with: msmtp, curl, ssmtp (Debian packages).
"""
import argparse
import os
import pathlib
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "small-programs"
SYSTEM_CAS = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
MUSL = "x86_64-unknown-linux-musl"
# Static: no position-independent code to relocate, and no unwinding tables, which `panic = "abort"` does not use.
STATIC_FLAGS = "-C relocation-model=static -C force-unwind-tables=no -C link-arg=-Wl,--build-id=none -C link-arg=-Wl,-z,norelro"
# name: (target, features, RUSTFLAGS)
VARIANTS = {
    "sendmail, no TLS, static": (MUSL, "", STATIC_FLAGS),
    "sendmail, rustls, static": (MUSL, "rustls", STATIC_FLAGS),
    "sendmail, native-tls, glibc": (None, "native-tls", ""),
    "sendmail, rustls, glibc": (None, "rustls", ""),
}
MESSAGE = b"From: a@example.org\nTo: b@example.net\nSubject: Hi\n\n" + b"A line of text.\n" * 60


def serve(work):
    """Starts a server in clear and one over TLS, each in a thread, and returns their ports."""
    key, certificate = work / "key.pem", work / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -keyout"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command.split(), key, "-out", certificate, *names], check=True, stderr=subprocess.DEVNULL)
    (work / "cas.pem").write_bytes(SYSTEM_CAS.read_bytes() + certificate.read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    ports = []
    for tls in (None, context):
        listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=accept, args=(listener, tls), daemon=True).start()
        ports.append(listener.getsockname()[1])
    return ports


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


def build(name):
    """Builds a variant, and returns the path of the program."""
    target, features, flags = VARIANTS[name]
    folder = TARGET / name.replace(", ", "-").replace(" ", "-")
    command = ["cargo", "build", "--locked", "--quiet", "--profile", "small", "--package", "postino-sendmail"]
    command += ["--no-default-features", "--features", features, "--target-dir", folder]
    if target:
        command += ["--target", target]
    # Without it, the paths of this machine would be in the program.
    remap = f"--remap-path-prefix={pathlib.Path.home()}=~ --remap-path-prefix={ROOT}=postino"
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "RUSTFLAGS": f"{flags} {remap}".strip()})
    return folder / (target or "") / "small" / "sendmail"


def commands(program, kind, port, tls, work):
    """Returns the command to send MESSAGE, and the environment."""
    env = {"SSL_CERT_FILE": str(work / "cas.pem"), "PATH": os.environ["PATH"], "HOME": str(work)}
    scheme = "smtps" if tls else "smtp"
    if kind == "sendmail":
        return [program, "-s", f"{scheme}://localhost:{port}", "-f", "a@example.org", "b@example.net"], env
    if kind == "msmtp":
        trust = [f"--tls-trust-file={work}/cas.pem", "--tls-starttls=off"] if tls else []
        switch = "on" if tls else "off"
        return [program, "--host=localhost", f"--port={port}", f"--tls={switch}", *trust, "--from=a@example.org", "--auth=off",
                "b@example.net"], env
    if kind == "curl":
        return [program, "-sS", "--cacert", work / "cas.pem", "--mail-from", "a@example.org", "--mail-rcpt", "b@example.net",
                "-T", "-", f"{scheme}://localhost:{port}"], env
    config = work / f"ssmtp-{port}.conf"  # ssmtp
    config.write_text(f"mailhub=localhost:{port}\nhostname=localhost\nFromLineOverride=YES\nUseTLS={'YES' if tls else 'NO'}\n"
                      f"TLS_CA_File={work}/cas.pem\n")
    return [program, f"-C{config}", "-fa@example.org", "b@example.net"], env


def run(command, env, work):
    """Runs a command twice, and returns its CPU time in ms and its peak memory in MiB.

    A process inherits the peak of the one that starts it, which is large here. So the memory is measured below `time`.
    """
    timed = ["time", "--quiet", "--format", "%M", "--output", work / "peak", *command]
    for line in (command, timed):
        with open(work / "message", "rb") as message, open(work / "errors", "wb") as errors:
            process = subprocess.Popen(line, env=env, stdin=message, stdout=errors, stderr=errors)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"exit code {process.returncode}: {(work / 'errors').read_text().strip()[:200]}")
        if line is command:
            cpu = (usage.ru_utime + usage.ru_stime) * 1000
    return cpu, int((work / "peak").read_text()) / 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="small."))
    (work / "message").write_bytes(MESSAGE)
    plain, tls = serve(work)

    programs, notes = {}, []
    for name in VARIANTS:
        try:
            programs[name] = ("sendmail", build(name))
        except subprocess.CalledProcessError:
            notes.append(f"{name}: cannot be built here")
    for name in ("msmtp", "ssmtp", "curl"):
        path = shutil.which(name)
        if path:
            programs[name] = (name, pathlib.Path(path).resolve())
        else:
            notes.append(f"{name}: not installed")
    if args.only:
        programs = {name: p for name, p in programs.items() if name in args.only.split(",")}

    figures = {name: {False: [], True: []} for name in programs}
    failed = set()
    for _ in range(args.rounds):
        for secure in (False, True):
            for name, (kind, path) in programs.items():
                if (name, secure) in failed or (secure and "no TLS" in name):
                    continue
                try:
                    command, env = commands(path, kind, tls if secure else plain, secure, work)
                    figures[name][secure].append(run(command, env, work))
                except RuntimeError as e:
                    failed.add((name, secure))
                    notes.append(f"{name}{' over TLS' if secure else ''}: {e}")

    def cell(samples, column, digits):
        return f"{statistics.median(s[column] for s in samples):.{digits}f}" if samples else "-"

    print("| program | kB | libraries | plain: MiB | plain: CPU ms | TLS: MiB | TLS: CPU ms |")
    print("|---|---|---|---|---|---|---|")
    for name, (_, path) in programs.items():
        libraries = subprocess.run(["ldd", path], capture_output=True, text=True).stdout.count("=> /")
        cells = [cell(figures[name][secure], *c) for secure in (False, True) for c in ((1, 1), (0, 2))]
        print(f"| {name} | {path.stat().st_size / 1000:.0f} | {libraries} | {' | '.join(cells)} |")
    for note in notes:
        print(f"\n{note}")
    shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())

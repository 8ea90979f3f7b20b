#!/usr/bin/env python3
"""An SMTP server for tests/platforms/static: one port with STARTTLS and one with implicit TLS.

    static_server.py FOLDER

Uses FOLDER/cert.pem and key.pem, prints the two ports, and stores each message in FOLDER/mails. A message that arrives
in clear on the first port is stored as well: the client decides whether TLS is required.
"""
import itertools
import pathlib
import socketserver
import ssl
import sys
import threading

FOLDER = pathlib.Path(sys.argv[1])
NUMBERS = itertools.count(1)
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
TLS.load_cert_chain(FOLDER / "cert.pem", FOLDER / "key.pem")


class Session(socketserver.BaseRequestHandler):
    implicit = False

    def handle(self):
        try:
            self.talk()
        except (OSError, EOFError):
            pass  # the client refused the certificate, or has gone

    def talk(self):
        connection, tls = self.request, self.implicit
        if tls:
            connection = TLS.wrap_socket(connection, server_side=True)
        file = connection.makefile("rwb", buffering=0)
        file.write(b"220 localhost ESMTP\r\n")
        while line := file.readline():
            verb = line.split()[0].upper() if line.split() else b""
            if verb == b"EHLO":
                file.write(b"250-localhost\r\n" + (b"" if tls else b"250-STARTTLS\r\n") + b"250 PIPELINING\r\n")
            elif verb == b"STARTTLS" and not tls:
                file.write(b"220 2.0.0 go on\r\n")
                tls, connection = True, TLS.wrap_socket(connection, server_side=True)
                file = connection.makefile("rwb", buffering=0)
            elif verb == b"DATA":
                file.write(b"354 go on\r\n")
                self.store(file)
                file.write(b"250 2.0.0 stored\r\n")
            elif verb == b"QUIT":
                file.write(b"221 2.0.0 bye\r\n")
                return
            else:
                file.write(b"250 2.0.0 ok\r\n")

    def store(self, file):
        lines = []
        while (line := file.readline()) != b".\r\n":
            if not line:
                raise EOFError
            lines.append(line[line.startswith(b".") :].replace(b"\r\n", b"\n"))
        (FOLDER / "mails" / str(next(NUMBERS))).write_bytes(b"".join(lines))


class Implicit(Session):
    implicit = True


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


def main():
    first, second = Server(("127.0.0.1", 0), Session), Server(("127.0.0.1", 0), Implicit)
    print(first.server_address[1], second.server_address[1], flush=True)
    threading.Thread(target=first.serve_forever, daemon=True).start()
    second.serve_forever()


if __name__ == "__main__":
    main()

"""aiosmtpd_server.py PKI MAIL [relay]: runs aiosmtpd on ports of loopback.

19525: STARTTLS offered, AUTH after it. 19465: implicit TLS. 19526: neither, SIZE 20000, no SMTPUTF8.
19424: LMTP, STARTTLS offered. With `relay` it is 14525 alone: what Dovecot hands its mail to.
A message lands in MAIL/N.eml as its bytes came, its envelope beside it in MAIL/N.envelope (written first).
"""

import asyncio
import collections
import hashlib
import hmac
import itertools
import os
import ssl
import sys
from base64 import b64decode, b64encode

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

PKI, MAIL = sys.argv[1:3]
RELAY = sys.argv[3:] == ["relay"]
DOMAIN = "lab.test"
USERS = {"alice", "bob", "jörg", "reject"}
LOGIN, PASSWORD = b"alice@lab.test", b"s3cret-p@ss"
SIZE = 50 << 20

# tls-server-end-point (RFC 5929 section 4): the certificate is signed with SHA-256
with open(PKI + "/server.chain.pem", encoding="ascii") as chain:
    END = "-----END CERTIFICATE-----"
    END_POINT = hashlib.sha256(ssl.PEM_cert_to_DER_cert(chain.read().partition(END)[0] + END)).digest()

# Extensions that aiosmtpd does not have: their parameters are accepted and recorded, but not obeyed.
EXTENSIONS = ["DSN", "MT-PRIORITY MIXER", "DELIVERBY", "FUTURERELEASE 604800 2100-01-01T00:00:00Z"]
PARAMETERS = {"RET", "ENVID", "NOTIFY", "ORCPT", "MT-PRIORITY", "BY", "HOLDFOR", "HOLDUNTIL", "REQUIRETLS", "AUTH"}

numbers = itertools.count(1)


class Recording:
    """Mixin for a server: keeps MAIL and RCPT as they were sent, including refused ones."""

    def __init__(self, *arguments, **options):
        # aiosmtpd's own is shared by all connections, and each new one clears it.
        self.command_size_limits = collections.defaultdict(lambda: 4096)
        super().__init__(*arguments, **options)

    async def smtp_MAIL(self, argument):
        self.session.commands = [f"MAIL {argument}"]
        await super().smtp_MAIL(argument)

    async def smtp_RCPT(self, argument):
        if hasattr(self.session, "commands"):
            self.session.commands.append(f"RCPT {argument}")
        await super().smtp_RCPT(argument)

    def _getparams(self, parameters):
        ours = PARAMETERS if self.event_handler.extended else ()
        return super()._getparams([p for p in parameters if p.partition("=")[0] not in ours])


class Handler:
    def __init__(self, extended):
        self.extended = extended

    async def handle_EHLO(self, server, session, envelope, name, lines):
        session.host_name = name
        more = EXTENSIONS if self.extended else []
        if more and is_encrypted(server):
            more = [*more, "REQUIRETLS"]
        return lines[:-1] + ["250-" + line for line in more] + lines[-1:]

    async def handle_RCPT(self, server, session, envelope, address, options):
        local, _, domain = address.rpartition("@")
        user = local.split("+")[0]
        if domain != DOMAIN:
            if not session.authenticated and not RELAY:
                return "550 5.7.1 Relaying denied"
        elif user == "greylist":
            return "451 4.7.1 Greylisted, come back later"
        elif user not in USERS:
            return "550 5.1.1 No such user here"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server, session, envelope):
        replies = [
            f"452 4.2.2 <{to}> is full" if to.startswith("reject@") else f"250 2.0.0 <{to}> Stored"
            for to in envelope.rcpt_tos
        ]
        if not isinstance(server, LMTP):
            replies = [max(replies)]  # one reply for all: if one recipient refuses, nobody gets the message
        if min(replies) < "3":
            store(server, session, envelope)
        return "\r\n".join(replies)

    async def auth_SCRAM__SHA__256__PLUS(self, server, args):
        """Minimal RFC 5802 and 7677; malformed input raises. The hashes are hashlib's, independent of postino."""
        mac = lambda key, text: hmac.digest(key, text, "sha256")
        refused = AuthResult(success=False, handled=False)
        first = b64decode(args[1])
        header, bare = first[: first.index(b",,") + 2], first[first.index(b",,") + 2 :]
        user, nonce = (part[2:] for part in bare.split(b","))
        nonce, salt = nonce + b64encode(os.urandom(9)), os.urandom(16)
        server_first = b"r=%s,s=%s,i=4096" % (nonce, b64encode(salt))
        last = await server.challenge_auth(server_first)
        last, _, proof = last.rpartition(b",p=")
        salted = hashlib.pbkdf2_hmac("sha256", PASSWORD, salt, 4096)
        message = b",".join([bare, server_first, last])
        client_key = mac(salted, b"Client Key")
        signature = mac(hashlib.sha256(client_key).digest(), message)
        right = bytes(a ^ b for a, b in zip(client_key, signature))
        bound = b"c=%s,r=%s" % (b64encode(header + END_POINT), nonce)
        if (header, last) != (b"p=tls-server-end-point,,", bound) or (user, b64decode(proof)) != (LOGIN, right):
            return refused
        signature = mac(mac(salted, b"Server Key"), message)
        if await server.challenge_auth(b"v=" + b64encode(signature)) != b"":
            return refused
        return AuthResult(success=True, auth_data=user.decode())


def is_encrypted(server):
    return server.transport.get_extra_info("ssl_object") is not None


def store(server, session, envelope):
    path = os.path.join(MAIL, f"{next(numbers):06}")
    about = [
        f"port {server.transport.get_extra_info('sockname')[1]}",
        f"tls {'yes' if is_encrypted(server) else 'no'}",
        f"hello {session.host_name}",
        *([f"login {session.auth_data}"] if session.auth_data else []),
        *session.commands,
    ]
    with open(path + ".envelope", "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.writelines(line + "\n" for line in about)
    with open(path + ".part", "wb") as file:
        file.write(envelope.content)
    os.rename(path + ".part", path + ".eml")  # it appears complete or not at all


def authenticate(server, session, envelope, mechanism, data):
    if isinstance(data, LoginPassword) and (data.login, data.password) == (LOGIN, PASSWORD):
        return AuthResult(success=True, auth_data=data.login.decode())
    return AuthResult(success=False, handled=False)


async def main():
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(PKI + "/server.chain.pem", PKI + "/server.key")

    class Server(Recording, SMTP):
        pass

    class Receiver(Recording, LMTP):
        pass

    async def listen(port, kind=Server, extended=True, implicit_tls=None, **options):
        options = {"data_size_limit": SIZE, "enable_SMTPUTF8": True, **options}
        make = lambda: kind(Handler(extended), hostname="aiosmtpd.lab.test", decode_data=False, **options)
        await asyncio.get_running_loop().create_server(make, "127.0.0.1", port, ssl=implicit_tls)

    if RELAY:
        await listen(14525)
    else:
        await listen(19525, tls_context=tls, authenticator=authenticate)
        await listen(19465, implicit_tls=tls, authenticator=authenticate, auth_require_tls=False)
        await listen(19526, extended=False, data_size_limit=20000, enable_SMTPUTF8=False)
        await listen(19424, kind=Receiver, tls_context=tls)
    await asyncio.Event().wait()


asyncio.run(main())

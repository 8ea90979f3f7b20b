"""aiosmtpd_server.py PKI MAIL: aiosmtpd on three ports of loopback.

19525: STARTTLS offered, AUTH after it. 19465: TLS from the first byte. 19526: neither, SIZE 20000, no SMTPUTF8.
A message lands in MAIL/N.eml as its bytes came, its envelope beside it in MAIL/N.json (written first).
"""

import asyncio
import hashlib
import hmac
import itertools
import json
import os
import ssl
import sys
from base64 import b64decode, b64encode

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

PKI, MAIL = sys.argv[1:]
DOMAIN = "lab.test"
USERS = {"alice", "bob", "jörg"}
LOGIN, PASSWORD = b"alice@lab.test", b"s3cret-p@ss"
SIZE = 50 << 20

# tls-server-end-point (RFC 5929 section 4): our certificate is signed with SHA-256
with open(PKI + "/server.chain.pem", encoding="ascii") as chain:
    END = "-----END CERTIFICATE-----"
    END_POINT = hashlib.sha256(ssl.PEM_cert_to_DER_cert(chain.read().partition(END)[0] + END)).digest()

numbers = itertools.count(1)


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        local, _, domain = address.rpartition("@")
        user = local.split("+")[0]
        if domain != DOMAIN:
            if not session.authenticated:
                return "550 5.7.1 Relaying denied"
        elif user == "greylist":
            return "451 4.7.1 Greylisted, come back later"
        elif user not in USERS:
            return "550 5.1.1 No such user here"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server, session, envelope):
        path = os.path.join(MAIL, f"{next(numbers):06}")
        about = {
            "port": server.transport.get_extra_info("sockname")[1],
            "tls": server.transport.get_extra_info("ssl_object") is not None,
            "helo": session.host_name,
            "login": session.auth_data,
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "mail_options": envelope.mail_options,
            "rcpt_options": envelope.rcpt_options,
            "smtputf8": envelope.smtp_utf8,
        }
        with open(path + ".json", "w", encoding="utf-8") as file:
            json.dump(about, file, ensure_ascii=False)
        with open(path + ".part", "wb") as file:
            file.write(envelope.content)
        os.rename(path + ".part", path + ".eml")  # it is there whole or not at all
        return "250 2.0.0 Stored"

    async def auth_SCRAM__SHA__256__PLUS(self, server, args):
        """RFC 5802 and 7677, as short as it goes; what is not well-formed raises. Hashes are hashlib's, not ours."""
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


def authenticate(server, session, envelope, mechanism, data):
    if isinstance(data, LoginPassword) and (data.login, data.password) == (LOGIN, PASSWORD):
        return AuthResult(success=True, auth_data=data.login.decode())
    return AuthResult(success=False, handled=False)


async def main():
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(PKI + "/server.chain.pem", PKI + "/server.key")

    async def listen(port, implicit_tls=None, **options):
        options = {"data_size_limit": SIZE, "enable_SMTPUTF8": True, **options}
        make = lambda: SMTP(Handler(), hostname="aiosmtpd.lab.test", decode_data=False, **options)
        await asyncio.get_running_loop().create_server(make, "127.0.0.1", port, ssl=implicit_tls)

    await listen(19525, tls_context=tls, authenticator=authenticate)
    await listen(19465, implicit_tls=tls, authenticator=authenticate, auth_require_tls=False)
    await listen(19526, data_size_limit=20000, enable_SMTPUTF8=False)
    await asyncio.Event().wait()


asyncio.run(main())

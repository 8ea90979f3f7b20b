"""Ways: `conn`, `new` (a connection for each message). See ../peers/src/lib.rs for arguments, environment and output."""
import asyncio
import json
import os
import ssl
import sys
import time

import aiosmtplib

_, way, security, host, port, count, path, _ = sys.argv
count = int(count)
unmeasured = int("PEERS_WARM" in os.environ)
message = open(path, "rb").read()
sender, recipient = os.environ.get("PEERS_FROM", "a@example.org"), os.environ.get("PEERS_TO", "b@example.net")
spent = 0.0


def start():
    if "PEERS_WARM" in os.environ:
        time.sleep(0.05)
    return time.perf_counter()


async def visit(context, messages, unmeasured):
    global spent
    begun = start()
    client = aiosmtplib.SMTP(
        hostname=host,
        port=int(port),
        username=os.environ.get("PEERS_USER"),
        password=os.environ.get("PEERS_PASSWORD"),
        local_hostname="localhost",
        use_tls=security == "tls",
        start_tls=security == "starttls",
        tls_context=context,
        timeout=60,
    )
    await client.connect()
    for n in range(messages):
        await client.sendmail(sender, [recipient], message)
        if n < unmeasured:
            begun = start()
    spent += time.perf_counter() - begun
    await client.quit()


async def main():
    context = None if security == "plain" else ssl.create_default_context(cafile=os.environ["PEERS_CA"])
    if way == "new":
        visits = [(1, 1)] * unmeasured + [(1, 0)] * count
    else:
        visits = [(unmeasured + count, unmeasured)]
    for messages, first in visits:
        await visit(context, messages, first)


begun = time.perf_counter()
asyncio.run(main())
seconds = spent if unmeasured else time.perf_counter() - begun
print(json.dumps({"seconds": seconds, "messages": count}))

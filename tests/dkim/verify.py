"""verify.py DIRECTORY   verifies the messages in DIRECTORY with dkimpy.

good-N-... has N valid signatures; bad-N-... has N invalid ones.
"""

import pathlib
import sys

import dkim

HERE = pathlib.Path(__file__).parent
RECORDS = {
    b"rsa._domainkey.example.org.": "v=DKIM1; k=rsa; p=" + (HERE / "keys/rsa.pub").read_text(),
    b"ed25519._domainkey.example.org.": "v=DKIM1; k=ed25519; p=" + (HERE / "keys/ed25519.pub").read_text(),
}


def record(name, timeout=5):
    return RECORDS[name if isinstance(name, bytes) else name.encode()]


def verifies(message, i):
    try:
        return dkim.DKIM(message).verify(idx=i, dnsfunc=record)
    except dkim.DKIMException as e:
        print(f"  {type(e).__name__}: {e}")
        return False


wrong, signatures = 0, 0
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    message = path.read_bytes()
    kind, count = path.name.split("-")[:2]
    names = [name.lower() for name, _ in dkim.DKIM(message).headers]
    results = [verifies(message, i) for i in range(names.count(b"dkim-signature"))]
    signatures += len(results)
    if results != [kind == "good"] * int(count):
        print(f"{path.name}: {results}")
        wrong += 1
print(f"{signatures} signatures as they should be" if not wrong else f"{wrong} messages are not as they should be")
sys.exit(wrong > 0 or signatures == 0)

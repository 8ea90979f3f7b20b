"""check_composed.py FOLDER: reads each N.eml there with Python's `email`, and compares with what N.txt says went in.

A line of N.txt is a word and values in hexadecimal, UTF-8 where they are text:

    subject VALUE
    to NAME ADDRESS
    part CONTENT-TYPE FILE-NAME CONTENT

Addresses and parts come in their order. Prints each difference, and fails if there is one.
"""

import email
import email.policy
import pathlib
import sys
from email.header import decode_header, make_header
from email.utils import getaddresses


def main(folder):
    paths = sorted(folder.glob("*.eml"))
    if not paths:
        sys.exit(f"there is no message in {folder}")
    differences = [f"{path}: {what}" for path in paths for what in compare(path)]
    print(*differences, f"{len(paths)} messages, {len(differences)} differences", sep="\n")
    return bool(differences)


def compare(path):
    message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    expected = {"subject": [], "to": [], "part": []}
    for line in path.with_suffix(".txt").read_text("ascii").splitlines():
        word, *values = line.split(" ")
        expected[word].append([bytes.fromhex(value) for value in values])

    subject = [[text(message["subject"])]] if message["subject"] is not None else []
    yield from different("subject", subject, expected["subject"])
    yield from different("to", mailboxes(path), expected["to"])
    # Python 3.11 keeps the space between two encoded words here, against RFC 2047 section 6.2, and makes others (a no-break
    # space) plain ones: names without white space.
    to = [[text(one.display_name), text(one.addr_spec)] for one in message["to"].addresses]
    yield from different("to", spaceless(to), spaceless(expected["to"]))
    yield from different("part", [leaf(part) for part in leaves(message)], expected["part"])
    yield from defects(message)


def different(what, found, expected):
    if len(found) != len(expected):
        yield f"{len(found)} and not {len(expected)} of {what}: {found!r}, not {expected!r}"
    for one, other in zip(found, expected):
        if one != other:
            yield f"{what} is {one!r}, not {other!r}"


def mailboxes(path):
    """Names and addresses by the older functions, which get the spaces right."""
    message = email.message_from_bytes(path.read_bytes(), policy=email.policy.compat32)
    unfolded = message["to"].replace("\r\n", "")
    decoded = [(make_header(decode_header(name)), address) for name, address in getaddresses([unfolded])]
    return [[text(name), text(address)] for name, address in decoded]


def spaceless(pairs):
    return [["".join(name.decode().split()), address] for name, address in pairs]


def text(value):
    return str(value).encode("utf-8", "surrogateescape")


def leaves(message):
    return [part for part in message.walk() if not part.is_multipart()]


def leaf(part):
    # Not get_filename(), which strips spaces.
    disposition = part["content-disposition"]
    name = disposition.params.get("filename") if disposition else None
    return [text(part.get_content_type()), text(name or ""), part.get_payload(decode=True)]


def defects(message):
    """What Python finds wrong, but for the second file name, which is there for old programs."""
    for part in message.walk():
        for defect in part.defects:
            yield f"defect: {defect!r}"
        for name, value in part.items():
            for defect in value.defects:
                if name == "Content-Disposition" and "duplicate parameter name" in str(defect):
                    continue
                yield f"defect in {name}: {defect!r} ({value!r})"


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))

"""check_composed.py FOLDER: parses each N.eml in FOLDER with Python's `email`, by both of its policies, and compares it with the
input described by N.txt.

A line of N.txt is a word followed by values in hexadecimal (text in UTF-8):

    subject VALUE
    from NAME ADDRESS
    to NAME ADDRESS
    part CONTENT-TYPE FILE-NAME CONTENT

Addresses and parts are in order. Prints each difference, and fails if there is one.
"""

import email
import email.policy
import pathlib
import sys
from email.header import decode_header, make_header
from email.utils import collapse_rfc2231_value, getaddresses

WORDS = ("subject", "from", "to", "part")


def main(folder):
    paths = sorted(folder.glob("*.eml"))
    if not paths:
        sys.exit(f"there is no message in {folder}")
    differences = [f"{path}: {what}" for path in paths for what in compare(path)]
    print(*differences, f"{len(paths)} messages, {len(differences)} differences", sep="\n")
    return bool(differences)


def compare(path):
    expected = {word: [] for word in WORDS}
    for line in path.with_suffix(".txt").read_text("ascii").splitlines():
        word, *values = line.split(" ")
        expected[word].append([bytes.fromhex(value) for value in values])
    content = path.read_bytes()
    new = email.message_from_bytes(content, policy=email.policy.default)
    old = email.message_from_bytes(content, policy=email.policy.compat32)

    for word in ("from", "to"):
        yield from different(f"old {word}", old_mailboxes(old[word]), expected[word])
        # Contrary to RFC 2047 section 6.2, Python 3.11 keeps the space between two encoded words, and it turns other white
        # space (a no-break space) into plain spaces. Therefore names are compared without white space.
        mailboxes = [[text(one.display_name), text(one.addr_spec)] for one in new[word].addresses]
        yield from different(f"new {word}", spaceless(mailboxes), spaceless(expected[word]))
    subject = [[text(new["subject"])]] if new["subject"] is not None else []
    yield from different("new subject", subject, expected["subject"])
    subject = [[text(decoded(old["subject"]))]] if old["subject"] is not None else []
    yield from different("old subject", subject, expected["subject"])
    yield from different("new part", [leaf(part, new_name(part)) for part in leaves(new)], expected["part"])
    yield from different("old part", [leaf(part, old_name(part)) for part in leaves(old)], expected["part"])
    yield from defects(new)


def different(what, found, expected):
    if len(found) != len(expected):
        yield f"{len(found)} and not {len(expected)} of {what}: {found!r}, not {expected!r}"
    for one, other in zip(found, expected):
        if one != other:
            yield f"{what} is {one!r}, not {other!r}"


def decoded(value):
    """With the older functions, which handle spaces correctly."""
    return make_header(decode_header(value.replace("\r\n", "")))


def old_mailboxes(value):
    pairs = getaddresses([value.replace("\r\n", "")])
    return [[text(decoded(name)), text(address)] for name, address in pairs]


def spaceless(pairs):
    return [["".join(name.decode().split()), address] for name, address in pairs]


def text(value):
    return str(value).encode("utf-8", "surrogateescape")


def leaves(message):
    return [part for part in message.walk() if not part.is_multipart()]


def leaf(part, name):
    return [text(part.get_content_type()), text(name or ""), part.get_payload(decode=True)]


def new_name(part):
    # Not get_filename(), which strips spaces.
    disposition = part["content-disposition"]
    return disposition.params.get("filename") if disposition else None


def old_name(part):
    # Not get_filename(), which prefers the second name, meant for programs without RFC 2231.
    parameters = part.get_params([], "content-disposition")
    names = [collapse_rfc2231_value(value) for name, value in parameters if name == "filename"]
    return names[-1] if names else None


def defects(message):
    """The defects that Python finds, except the second file name, which is meant for old programs."""
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

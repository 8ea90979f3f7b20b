#!/usr/bin/env python3
"""Draws round-trips.svg, the dialogue of the quickstart, and comparison.svg, a chart of the figures in RESULTS.md.

    benches/picture.py            draws both
    benches/picture.py --check    only checks that comparison.svg shows the figures of RESULTS.md

The dialogue is recorded while the quickstart runs: `strace` shows what the client and the server write at once. Needs
Linux, cargo and strace.
"""
import ast
import html
import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
INK, FAINT, PAPER = "#24292f", "#8c959f", "#ffffff"
OURS, THEIRS, SERVER = "#0b6bcb", "#a0522d", "#57606a"
FONT = 'font-family="Helvetica, Arial, DejaVu Sans, sans-serif"'
MONO = 'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace"'


class Picture:
    def __init__(self, width, title):
        self.width, self.height, self.title, self.parts = width, 0, title, []

    def text(self, x, y, text, size=13, fill=INK, anchor="start", font=FONT, weight="normal"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" '
                          f'font-weight="{weight}" {font}>{html.escape(text)}</text>')
        self.height = max(self.height, y + 12)

    def line(self, x1, y1, x2, y2, stroke=FAINT, width=1, arrow=False):
        end = f' marker-end="url(#{stroke[1:]})"' if arrow else ""
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" '
                          f'stroke-width="{width}"{end}/>')
        self.height = max(self.height, y1 + 8, y2 + 8)

    def bar(self, x, y, width, height, fill):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}"/>')

    def write(self, path):
        height = int(self.height + 12)
        arrows = "".join(
            f'<marker id="{color[1:]}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0,0 L8,4 L0,8 z" fill="{color}"/></marker>' for color in (OURS, THEIRS, SERVER))
        path.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {height}" width="{self.width}" '
            f'height="{height}" role="img">\n<title>{html.escape(self.title)}</title>\n<defs>{arrows}</defs>\n'
            f'<rect width="100%" height="100%" fill="{PAPER}"/>\n' + "\n".join(self.parts) + "\n</svg>\n")
        print(path.relative_to(ROOT))


def record():
    """Runs the quickstart. Returns what each side wrote at once, in order: (is the client, lines)."""
    build = ["cargo", "build", "--quiet", "--features", "testing", "--example", "quickstart"]
    subprocess.run(build, cwd=ROOT, check=True)
    program = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug/examples/quickstart"
    trace = subprocess.run(["strace", "-f", "-qq", "-e", "trace=sendto", "-s", "4096", program],
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True).stderr
    flights = []
    for match in re.finditer(r'sendto\((\d+), ("(?:[^"\\]|\\.)*")', trace):
        text = ast.literal_eval(match[2])
        flights.append((not re.match(r"\d{3}[ -]", text), text))
    assert flights[0][1].startswith("220") and not flights[0][0], flights[:1]
    return flights


def shown(text):
    """Returns the lines of a flight, shortened: of a message only its size, of a reply its last line."""
    if text.endswith("\r\n.\r\n"):
        return [f"(the message, {len(text)} octets)"]
    lines = text.rstrip("\r\n").split("\r\n")
    replies = [line for line in lines if not re.match(r"\d{3}-", line)]
    cut = lambda line: line if len(line) <= 40 else line[:39] + "…"
    return [cut(f"{line[:4]}… {len(lines) - 1} extensions" if len(lines) > 1 and len(replies) == 1 and line[:3] == "250"
                else line) for line in replies]


def one_by_one(flights):
    """Returns the same dialogue for a client that waits for each reply."""
    result = flights[:1]
    for (_, sent), (_, answered) in zip(flights[1::2], flights[2::2], strict=True):
        is_message = sent.endswith("\r\n.\r\n")
        commands = [sent] if is_message else sent.splitlines(keepends=True)
        replies = [answered] if len(commands) == 1 else answered.splitlines(keepends=True)
        for command, reply in zip(commands, replies, strict=True):
            result += [(True, command), (False, reply)]
    return result


def dialogue(flights):
    trips = lambda of: sum(client for client, _ in of)
    slow = one_by_one(flights)
    title = (f"postino sends a message in {trips(flights)} round trips; "
             f"a client that waits for each reply takes {trips(slow)}")
    picture = Picture(900, title)
    for left, name, color, of in ((0, "postino", OURS, flights), (450, "a client that waits for each reply", THEIRS, slow)):
        here, there, y = left + 32, left + 418, 26
        picture.text(left + 225, y, name, 15, anchor="middle", weight="bold")
        picture.text(here, y + 24, "client", 12, SERVER, "middle")
        picture.text(there, y + 24, "server", 12, SERVER, "middle")
        y = top = 60
        trip, slope, row = 0, 14, 15
        for client, text in of:
            lines = shown(text)
            if client:
                trip += 1
                y += 6
            begin, end = (here, there) if client else (there, here)
            for line in lines:
                y += row
                picture.text(left + (52 if client else 398), y, line, 11.5, color if client else SERVER,
                             "start" if client else "end", MONO)
            picture.line(begin, y + 4, end, y + 4 + slope, color if client else SERVER, 1.4, True)
            y += slope + 2
            if not client and trip:
                picture.text(left + 8, y + 1, str(trip), 12, FAINT, "middle", weight="bold")
        picture.line(here, top, here, y + 6)
        picture.line(there, top, there, y + 6)
        picture.text(left + 225, y + 28, f"{trip} round trips", 15, color, "middle", weight="bold")
    picture.write(HERE / "round-trips.svg")


def table(text, head):
    """Returns the rows of a table in RESULTS.md by name, each by column."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {head}"))
    columns = [cell.strip() for cell in lines[start].strip("|").split("|")]
    rows = {}
    for line in lines[start + 2:]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[cells[0]] = dict(zip(columns, cells))
    return rows


def figures():
    """Returns the panels of the chart: a title, and rows of a name, a figure, and what it is without TCP_NODELAY."""
    text = (HERE / "RESULTS.md").read_text()
    number = lambda cell: float(cell.replace(",", ""))
    names = {"postino": "postino", "postino async": "postino, async", "async-smtp": "async-smtp"}
    nodelay = {"lettre conn": "lettre", "mail-send": "mail-send"}
    rate = {name: number(row["messages/s"]) for name, row in table(text, "1 KiB, one connection, one CPU").items()}
    first = {name: number(row["plain"]) for name, row in table(text, "first mail on a fresh connection").items()}
    peak = {name: number(row["peak MiB"]) for name, row in table(text, "100 MiB, big.eml, plain").items()}
    return [
        ("Messages per second, 1 KiB, one connection (more is better)",
         [(label, rate[name], None) for name, label in names.items()]
         + [(label, rate[f"{name} +nodelay"], rate[name]) for name, label in nodelay.items()], "{:,.0f}"),
        ("First mail on a new connection, round trips (less is better)",
         [("postino", first["postino::send"], None), ("postino, async", first["postino::aio::send"], None)]
         + [(name, first[name], None) for name in ("async-smtp", "lettre", "mail-send")], "{:.1f}"),
        ("Peak memory for a message of 100 MiB, MiB (less is better)",
         [(label, peak[name], None) for name, label in names.items()]
         + [("lettre", peak["lettre conn"], None), ("mail-send", peak["mail-send"], None)], "{:,.1f}"),
    ]


def chart():
    picture = Picture(760, "postino beside other libraries, from benches/RESULTS.md")
    y = 10
    for title, rows, form in figures():
        y += 24
        picture.text(16, y, title, 14, weight="bold")
        most = max(value for _, value, _ in rows)
        for name, value, slow in rows:
            y += 24
            picture.text(120, y, name, 13, anchor="end")
            length = max(2, 380 * value / most)
            picture.bar(130, y - 13, length, 17, OURS if name.startswith("postino") else THEIRS)
            text = form.format(value)
            if slow is not None:
                text += f" with TCP_NODELAY forced on; {form.format(slow)} without"
            picture.text(138 + length, y, text, 13)
        y += 14
    picture.text(16, y + 18, "benches/RESULTS.md, measured by benches/peers/run.py", 11, FAINT)
    return picture


def main():
    path = HERE / "comparison.svg"
    if sys.argv[1:] == ["--check"]:
        wanted = {text for text in re.findall(r"<text[^>]*>([^<]*)</text>", "\n".join(chart().parts))}
        if wanted != set(re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())):
            sys.exit("comparison.svg does not show the figures of RESULTS.md: run benches/picture.py")
        return
    if sys.argv[1:]:
        sys.exit(__doc__)
    chart().write(path)
    dialogue(record())


main()

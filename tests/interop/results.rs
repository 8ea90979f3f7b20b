//! The cells of the matrices, and the `RESULTS.md` made from them: it is written to the file that
//! `POSTINO_INTEROP_RESULTS` names.

use std::{collections::BTreeMap, env, fmt::Write, fs, process::Command, sync::Mutex};

use crate::servers::ALL;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Matrix {
    Logins,
    Messages,
    Certificates,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As expected; and what the server changed, if anything.
    Passed(String),
    /// Refused as expected: by which side, and why.
    Refused(String),
    /// Not available there, and why.
    Absent(String),
    /// Not as expected.
    Failed(String),
}

/// The result of one item, sent one way to one server.
#[derive(Debug, Clone)]
pub struct Cell {
    pub way: &'static str,
    /// A mechanism, a message, or a certificate; empty if there is no such way.
    pub what: &'static str,
    pub verdict: Verdict,
}

#[derive(Debug)]
struct Entry {
    server: &'static str,
    client: &'static str,
    cell: Cell,
}

type Run = (Matrix, usize, &'static str);

/// In the order of the tables, whichever test ends first.
static CELLS: Mutex<BTreeMap<Run, Vec<Cell>>> = Mutex::new(BTreeMap::new());

/// Stores the results of a server's part of a matrix, and panics if a cell failed.
pub fn settle(matrix: Matrix, server: &str, client: &'static str, cells: Vec<Cell>) {
    let failed: Vec<_> =
        cells.iter().filter(|cell| matches!(cell.verdict, Verdict::Failed(_))).cloned().collect();
    let number = ALL.iter().position(|other| other.name == server).unwrap();
    {
        let mut all = CELLS.lock().unwrap();
        all.insert((matrix, number, client), cells);
        if let Some(path) = env::var_os("POSTINO_INTEROP_RESULTS") {
            fs::write(path, page(&all)).unwrap();
        }
    }
    assert!(failed.is_empty(), "{matrix:?}, {server}: {} failed: {failed:#?}", failed.len());
}

fn page(cells: &BTreeMap<Run, Vec<Cell>>) -> String {
    let of = |matrix| {
        let runs = cells.iter().filter(move |((other, ..), _)| *other == matrix);
        runs.flat_map(|((_, server, client), cells)| {
            cells.iter().map(|cell| Entry { server: ALL[*server].name, client, cell: cell.clone() })
        })
        .collect::<Vec<_>>()
    };
    let [logins, messages, certificates] = [Matrix::Logins, Matrix::Messages, Matrix::Certificates].map(of);
    let date = Command::new("date").args(["-u", "+%F"]).output().map(|date| date.stdout).unwrap_or_default();
    let mut page = format!(
        "# What came of it at real servers\n\n\
         Written by the tests on {}; not edited by hand (see `README.md` beside it). Each cell is run with the blocking\n\
         client and with the async one and counts once for each; a message of 10 MiB goes every way with one of them.\n\
         Logins and certificates are run with native-tls and with rustls, and count once for each.\n\n",
        String::from_utf8_lossy(&date).trim(),
    );
    page += &counts(&[("logins", &logins), ("messages", &messages), ("certificates", &certificates)]);

    page += "\n## Logins\n\nYes: the right secret is answered 235 and a message arrives; a wrong secret and an unknown user are refused (535).\n\n";
    page += &section(|notes| {
        table(
            "server, way",
            &logins,
            |e| format!("{}, {}", e.server, e.cell.way),
            |e| e.cell.what.into(),
            notes,
        )
    });

    page += "\n## Messages\n\nYes: what is stored is what was sent (line endings made CRLF, LF in the stores of Postfix and Sendmail), octet for octet behind\nthe server's own first headers, once. By STARTTLS; LMTP and few extensions in the clear.\n\n";
    page += &section(|notes| {
        let ways = ways(&messages, notes);
        let messages: Vec<_> = messages.into_iter().filter(|entry| !entry.cell.what.is_empty()).collect();
        ways + "\n" + &table("message", &messages, |e| e.cell.what.into(), |e| e.server.into(), notes)
    });

    page += "\n## Certificates\n\nYes: accepted, and a message arrives. Refused: by us, in the handshake, with that reason, and the server heard\nnothing behind it. By the two servers that are easily given other certificates.\n\n";
    page += &section(|notes| {
        table(
            "certificate",
            &certificates,
            |e| e.cell.what.into(),
            |e| format!("{}, {}", e.server, e.cell.way),
            notes,
        )
    });
    page
}

/// Number of cells by result, for each server and in total.
fn counts(matrices: &[(&str, &Vec<Entry>)]) -> String {
    let mut text =
        "| server | version | cells of | passed | refused as expected | not applicable | failed |\n\
                    |---|---|---|---|---|---|---|\n"
            .to_owned();
    let mut total = [0; 4];
    for server in &ALL {
        let (mut name, mut version) = (server.name, server.version());
        for (matrix, entries) in matrices {
            let of_it: Vec<_> = entries.iter().filter(|entry| entry.server == server.name).collect();
            if of_it.is_empty() {
                continue;
            }
            let counts = tally(&of_it);
            let [passed, refused, absent, failed] = counts;
            writeln!(text, "| {name} | {version} | {matrix} | {passed} | {refused} | {absent} | {failed} |")
                .unwrap();
            total = std::array::from_fn(|i| total[i] + counts[i]);
            (name, version) = ("", String::new()); // once
        }
        if !name.is_empty() {
            writeln!(text, "| {name} | | not run | | | | |").unwrap();
        }
    }
    let [passed, refused, absent, failed] = total;
    writeln!(text, "| all | | | {passed} | {refused} | {absent} | {failed} |").unwrap();
    text
}

/// Number of cells that passed, were refused, are not applicable, and failed.
fn tally(entries: &[&Entry]) -> [usize; 4] {
    let mut counts = [0; 4];
    for entry in entries {
        counts[match entry.cell.verdict {
            Verdict::Passed(_) => 0,
            Verdict::Refused(_) => 1,
            Verdict::Absent(_) => 2,
            Verdict::Failed(_) => 3,
        }] += 1;
    }
    counts
}

/// Tables, followed by the notes that they refer to.
fn section(tables: impl FnOnce(&mut Vec<String>) -> String) -> String {
    let mut notes = Vec::new();
    let mut text = tables(&mut notes);
    text += "\n";
    for (number, note) in notes.iter().enumerate() {
        writeln!(text, "{}. {note}", number + 1).unwrap();
    }
    text
}

/// Number of messages by result, for each server and way.
fn ways(entries: &[Entry], notes: &mut Vec<String>) -> String {
    let count = |entries: &[&Entry], notes: &mut Vec<String>| {
        if let [Entry { cell: Cell { verdict: verdict @ Verdict::Absent(_), .. }, .. }, ..] = entries {
            return shown(verdict, notes);
        }
        let [passed, refused, _, failed] = tally(entries);
        let mut text = format!("{passed} passed, {refused} refused");
        if failed > 0 {
            write!(text, ", **{failed} failed**").unwrap();
        }
        text
    };
    grid("way", entries, |e| e.cell.way.into(), |e| e.server.into(), |entries| count(entries, notes))
}

fn table(
    corner: &str,
    entries: &[Entry],
    row: impl Fn(&Entry) -> String,
    column: impl Fn(&Entry) -> String,
    notes: &mut Vec<String>,
) -> String {
    grid(corner, entries, row, column, |entries| verdicts(entries, notes))
}

fn grid(
    corner: &str,
    entries: &[Entry],
    row: impl Fn(&Entry) -> String,
    column: impl Fn(&Entry) -> String,
    mut cell: impl FnMut(&[&Entry]) -> String,
) -> String {
    let [rows, columns] = [distinct(entries.iter().map(&row)), distinct(entries.iter().map(&column))];
    let mut text = format!("| {corner} | {} |\n|{}\n", columns.join(" | "), "---|".repeat(columns.len() + 1));
    for name in rows {
        write!(text, "| {name} |").unwrap();
        for other in &columns {
            let here: Vec<_> = entries.iter().filter(|e| row(e) == name && column(e) == *other).collect();
            let cell = if here.is_empty() { String::new() } else { cell(&here) };
            write!(text, " {cell} |").unwrap();
        }
        text.push('\n');
    }
    text
}

/// The verdicts of these entries, merged where they agree.
fn verdicts(entries: &[&Entry], notes: &mut Vec<String>) -> String {
    let texts: Vec<_> = entries.iter().map(|entry| shown(&entry.cell.verdict, notes)).collect();
    let kinds = distinct(texts.iter().cloned());
    if let [kind] = &kinds[..] {
        return kind.clone();
    }
    let by_kind = kinds.iter().map(|kind| {
        let of_it = entries.iter().zip(&texts).filter(|(_, text)| *text == kind);
        let ways = distinct(of_it.map(|(entry, _)| {
            let way = entry.cell.way;
            let in_one_client = entries.iter().zip(&texts).any(|(e, text)| e.cell.way == way && text != kind);
            if in_one_client { format!("{way} ({})", entry.client) } else { way.to_owned() }
        }));
        format!("{kind}: {}", ways.join(", "))
    });
    by_kind.collect::<Vec<_>>().join("; ")
}

fn shown(verdict: &Verdict, notes: &mut Vec<String>) -> String {
    let (text, note) = match verdict {
        Verdict::Passed(note) if note.is_empty() => return "yes".to_owned(),
        Verdict::Passed(note) => ("yes", note),
        Verdict::Refused(note) => ("refused", note),
        Verdict::Absent(note) => ("–", note),
        Verdict::Failed(note) => ("**FAILED**", note),
    };
    let number = notes.iter().position(|other| other == note).unwrap_or_else(|| {
        notes.push(note.clone());
        notes.len() - 1
    });
    format!("{text} [{}]", number + 1)
}

fn distinct(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut distinct = Vec::new();
    for text in texts {
        if !distinct.contains(&text) {
            distinct.push(text);
        }
    }
    distinct
}

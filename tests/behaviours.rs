//! The table in `tests/README.md` is whole, and the tests that it names are there.

use std::{fs, path::Path};

/// The rows of the table: what stands in the first column, and in the last.
fn rows(readme: &str) -> Vec<(&str, &str)> {
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.filter_map(|row| Some((row.split_once(" | ")?.0, row.rsplit_once(" | ")?.1)))
        .filter(|(name, _)| name.starts_with("better_") || name.parse::<u8>().is_ok())
        .collect()
}

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/README.md")).unwrap()
}

/// The tests that a row names, each as `file::name`.
fn tests(row: &str) -> impl Iterator<Item = (&str, &str)> {
    row.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|quoted| quoted.split_once("::"))
        .filter(|(file, _)| file.ends_with(".rs"))
}

/// Whether there is a test of this name: `#[test]` stands among what is right above it.
fn has_test(source: &str, name: &str) -> bool {
    let start = format!("fn {name}(");
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    lines.iter().enumerate().filter(|(_, line)| line.starts_with(&start)).any(|(at, _)| {
        lines[..at].iter().rev().take_while(|above| above.starts_with("#[")).any(|above| *above == "#[test]")
    })
}

#[test]
fn the_table_has_each_behaviour_once() {
    let readme = readme();
    let numbers: Vec<u8> = rows(&readme).iter().filter_map(|(name, _)| name.parse().ok()).collect();
    assert_eq!(numbers, (1..=93).collect::<Vec<u8>>());
    let mut betters: Vec<&str> =
        rows(&readme).iter().map(|(name, _)| *name).filter(|name| name.starts_with("better_")).collect();
    assert_eq!(betters.len(), 17, "what the model lacks");
    betters.sort_unstable();
    betters.dedup();
    assert_eq!(betters.len(), 17, "each has a name of its own");
}

#[test]
fn each_behaviour_has_a_test_or_a_reason_why_not() {
    for (name, row) in rows(&readme()) {
        assert!(tests(row).next().is_some() || row.contains("Cannot apply:"), "{name}: {row}");
    }
}

#[test]
fn the_tests_in_the_table_are_there() {
    for (name, row) in rows(&readme()) {
        for (file, test) in tests(row) {
            let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
            let source = source.unwrap_or_else(|e| panic!("{name}: {file}: {e}"));
            assert!(has_test(&source, test), "{name}: there is no test {test} in {file}");
        }
    }
}

//! The tables in `tests/README.md` are whole, and the tests that they name are there.

use std::{fs, path::Path};

/// Of a table: what stands in the first column, and in the last.
type Rows<'r> = Vec<(&'r str, &'r str)>;

fn rows(table: &str) -> Rows<'_> {
    let rows = table.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.filter_map(|row| Some((row.split_once(" | ")?.0, row.rsplit_once(" | ")?.1)))
        .filter(|(name, _)| name.starts_with("better_") || name.parse::<u8>().is_ok())
        .collect()
}

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/README.md")).unwrap()
}

/// The table of the behaviours, and that of the threats.
fn tables(readme: &str) -> (Rows<'_>, Rows<'_>) {
    let (behaviours, threats) = readme.split_once("\n## The threats\n").unwrap();
    (rows(behaviours), rows(threats))
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

/// The numbers in a test's name: `threat_12_…`, `threats_46_and_47_…`, `threats_28_to_32_…`.
fn threats(test: &str) -> Vec<u8> {
    let mut words = test.split('_').skip_while(|word| !word.starts_with("threat")).skip(1);
    let mut number = move || words.next().and_then(|word| word.parse().ok()).zip(Some(words.next()));
    let mut numbers = Vec::new();
    while let Some((first, then)) = number() {
        numbers.push(first);
        match then {
            Some("and") => {}
            Some("to") => {
                numbers.extend(number().into_iter().flat_map(|(last, _)| first + 1..=last));
                break;
            }
            _ => break,
        }
    }
    numbers
}

#[test]
fn the_numbers_in_a_name_are_found() {
    for (name, numbers) in [
        ("threat_12_it_is", vec![12]),
        ("behaviour_5_threat_7_it_is", vec![7]),
        ("threat_46_and_47_it_is", vec![46, 47]),
        ("threats_28_to_32_it_is", vec![28, 29, 30, 31, 32]),
        ("it_is", vec![]),
    ] {
        assert_eq!(threats(name), numbers, "{name}");
    }
}

#[test]
fn the_table_has_each_behaviour_once() {
    let readme = readme();
    let (rows, _) = tables(&readme);
    let numbers: Vec<u8> = rows.iter().filter_map(|(name, _)| name.parse().ok()).collect();
    assert_eq!(numbers, (1..=93).collect::<Vec<u8>>());
    let mut betters: Vec<&str> =
        rows.iter().map(|(name, _)| *name).filter(|name| name.starts_with("better_")).collect();
    assert_eq!(betters.len(), 17, "what the model lacks");
    betters.sort_unstable();
    betters.dedup();
    assert_eq!(betters.len(), 17, "each has a name of its own");
}

#[test]
fn the_table_has_each_threat_once() {
    let readme = readme();
    let numbers: Vec<u8> = tables(&readme).1.iter().filter_map(|(name, _)| name.parse().ok()).collect();
    assert_eq!(numbers, (1..=92).collect::<Vec<u8>>());
}

#[test]
fn each_behaviour_has_a_test_or_a_reason_why_not() {
    for (name, row) in tables(&readme()).0 {
        assert!(tests(row).next().is_some() || row.contains("Cannot apply:"), "{name}: {row}");
    }
}

#[test]
fn each_threat_has_tests_of_its_number_or_a_reason_why_not() {
    for (name, row) in tables(&readme()).1 {
        let has_reason = row.contains("Cannot apply:") || row.contains("Elsewhere:");
        assert!(tests(row).next().is_some() || has_reason, "{name}: {row}");
        for (_, test) in tests(row) {
            assert!(has_reason || threats(test).contains(&name.parse().unwrap()), "{name}: {test}");
        }
    }
}

#[test]
fn the_tests_in_the_tables_are_there() {
    for row in readme().lines().filter(|line| line.starts_with("| ")) {
        for (file, test) in tests(row) {
            let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
            let source = source.unwrap_or_else(|e| panic!("{file}: {e}"));
            assert!(has_test(&source, test), "there is no test {test} in {file}");
        }
    }
}

//! The tables in `tests/README.md` are complete, and the tests that they name exist. What differs between operating
//! systems is in its place.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The rows of a table: the first column, and the last.
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

fn source_of(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// The table of behaviours and the table of threats.
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

/// The comment and attribute lines right above the function of this name, if it has `#[test]`.
fn above_test<'s>(source: &'s str, name: &str) -> Option<Vec<&'s str>> {
    let start = format!("fn {name}(");
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    let functions = lines.iter().enumerate().filter(|(_, line)| line.starts_with(&start));
    let mut above = functions.map(|(at, _)| {
        let is_above = |line: &&&str| line.starts_with("#[") || line.starts_with("//");
        lines[..at].iter().rev().take_while(is_above).copied().collect::<Vec<_>>()
    });
    above.find(|above| above.contains(&"#[test]"))
}

/// The threats in a comment above a test: `// Threat 12.`, `// Behaviour 5, threats 46 and 47.`, `// Threats 28 to 32.`
fn threats(comment: &str) -> Vec<u8> {
    let comment = comment.to_lowercase();
    let Some((_, after)) = comment.split_once("threat") else { return Vec::new() };
    let mut numbers = Vec::new();
    let mut is_range = false;
    for word in after.split([' ', ',', '.']).skip(1) {
        match (word, word.parse::<u8>()) {
            (_, Ok(number)) if is_range => numbers.extend(numbers.last().map_or(0, |last| last + 1)..=number),
            (_, Ok(number)) => numbers.push(number),
            ("and" | "to" | "threat" | "", _) => {}
            _ => break,
        }
        is_range = word == "to";
    }
    numbers
}

#[test]
fn threat_numbers_are_found_in_comments() {
    for (comment, numbers) in [
        ("// Threat 12.", vec![12]),
        ("// Behaviour 5, threat 7.", vec![7]),
        ("// Threats 46 and 47.", vec![46, 47]),
        ("// Threats 28 to 32.", vec![28, 29, 30, 31, 32]),
        ("// Threat 3, threat 9.", vec![3, 9]),
        ("// Behaviour 4.", vec![]),
        ("// Nothing about rows.", vec![]),
    ] {
        assert_eq!(threats(comment), numbers, "{comment}");
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
    assert_eq!(betters.len(), 22, "number of rows named better_…");
    betters.sort_unstable();
    betters.dedup();
    assert_eq!(betters.len(), 22, "a name occurs twice");
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
fn each_threat_has_tests_that_name_it_or_a_reason_why_not() {
    for (name, row) in tables(&readme()).1 {
        let has_reason = row.contains("Cannot apply:") || row.contains("Elsewhere:");
        assert!(tests(row).next().is_some() || has_reason, "{name}: {row}");
        for (file, test) in tests(row) {
            let source = source_of(file);
            let above = above_test(&source, test).unwrap_or_default();
            let numbers: Vec<u8> = above.iter().flat_map(|line| threats(line)).collect();
            assert!(has_reason || numbers.contains(&name.parse().unwrap()), "{name}: {test}");
        }
    }
}

#[test]
fn the_tests_named_in_the_tables_exist() {
    for row in readme().lines().filter(|line| line.starts_with("| ")) {
        for (file, test) in tests(row) {
            assert!(above_test(&source_of(file), test).is_some(), "there is no test {test} in {file}");
        }
    }
}

/// The source files below this folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let all = paths.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    all.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// Returns whether a line of code depends on the operating system.
fn names_a_system(line: &str) -> bool {
    let conditional = line.split_once("cfg").is_some_and(|(_, condition)| {
        let mut words = condition.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.any(|word| {
            ["unix", "windows", "target_os", "target_family", "target_vendor", "target_env"].contains(&word)
        })
    });
    let code = line.trim_start();
    let apis = ["rustix", "std::os::", "os::unix", "os::windows", "os::fd"];
    !code.starts_with("//") && (conditional || apis.iter().any(|api| code.contains(api)))
}

#[test]
fn only_sys_and_native_tls_depend_on_the_operating_system() {
    for line in ["#[cfg(unix)]", "#[cfg_attr(windows, path = \"x.rs\")]", "if cfg!(target_os = \"linux\") {"]
    {
        assert!(names_a_system(line), "{line}");
    }
    assert!(!names_a_system("#[cfg(feature = \"async\")]") && !names_a_system("//! [`Client::unix`]"));

    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    // native-tls uses the library of the system, and only OpenSSL's shows the key of a certificate.
    let may_depend = [src.join("sys"), src.join("tls/native.rs")];
    let (inside, outside): (Vec<_>, Vec<_>) =
        sources(&src).into_iter().partition(|path| may_depend.iter().any(|part| path.starts_with(part)));
    for path in &outside {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let lines = code.lines().enumerate().filter(|(_, line)| names_a_system(line));
        let found: Vec<_> = lines.map(|(number, line)| format!("{}: {line}", number + 1)).collect();
        assert!(found.is_empty(), "{}: {found:#?}", path.display());
    }
    let depends = |path: &PathBuf| fs::read_to_string(path).unwrap().lines().any(names_a_system);
    assert!(outside.len() > 100 && inside.iter().any(depends), "{} files", outside.len());
}

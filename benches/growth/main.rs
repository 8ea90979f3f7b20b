//! Measures how the work grows with the size of the input: `cargo bench --bench growth`.
//!
//! Each case is run with n, 2n, 4n and 8n of something. The table has the number of instructions in user space at n, and the
//! factor of each doubling. They are counted by callgrind and vary little between runs. Without valgrind, CPU time is measured
//! instead, which varies more. Words after `--` select the cases whose names contain one of them. With `--check` the exit
//! status is 1 if a last doubling takes more than 2.5 times as much.

use std::{
    env, fs,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

mod cases;

use cases::{CASES, Case};

/// Maximum factor of a last doubling that counts as linear.
const MOST: f64 = 2.5;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [run, name, n] = &arguments[..] {
        if run == "--run" {
            work(name, n.parse().unwrap());
            return ExitCode::SUCCESS;
        }
    }
    let check = arguments.iter().any(|argument| argument == "--check");
    let words: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let has_valgrind = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_ok();
    let unit = if has_valgrind { "1,000 instructions at n" } else { "microseconds at n" };
    println!("| {:45} | {:>6} | {unit:>23} |   2n |   4n |   8n |\n|---|--:|--:|--:|--:|--:|", "", "n");
    let nothing = if has_valgrind { instructions("nothing", 0) } else { 0.0 };
    let mut is_linear = true;
    for case in CASES {
        let (name, n, _) = case;
        if !words.is_empty() && !words.iter().any(|word| name.contains(&word[..])) {
            continue;
        }
        let costs = [1, 2, 4, 8].map(|times| {
            if has_valgrind {
                (instructions(name, times * n) - nothing).max(1.0)
            } else {
                time(case, times * n)
            }
        });
        let [twice, four, eight] = [1, 2, 3].map(|i| costs[i] / costs[i - 1]);
        let mark = if eight > MOST { " NOT LINEAR" } else { "" };
        // There are few levels of messages, and each is searched for the boundaries of those around it.
        is_linear &= eight <= MOST || name.contains("at most");
        println!(
            "| {name:45} | {n:6} | {:23.0} | {twice:4.2} | {four:4.2} | {eight:4.2} |{mark}",
            costs[0] / 1000.0
        );
    }
    if check && !is_linear { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn work(name: &str, n: usize) {
    if let Some((_, _, work)) = CASES.iter().find(|(other, ..)| *other == name) {
        work(n);
    }
}

/// Of a process of its own.
fn instructions(name: &str, n: usize) -> f64 {
    let counted = env::temp_dir().join(format!("postino-growth-{}", std::process::id()));
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--error-exitcode=9"])
        .arg(format!("--callgrind-out-file={}", counted.display()))
        .arg(env::current_exe().unwrap())
        .args(["--run", name, &n.to_string()])
        .stderr(Stdio::null())
        .status();
    assert!(run.is_ok_and(|status| status.success()), "{name} with {n} fails");
    let text = fs::read_to_string(&counted).unwrap();
    fs::remove_file(&counted).unwrap();
    let total =
        text.lines().find_map(|line| line.strip_prefix("summary: ").or(line.strip_prefix("totals: ")));
    total.and_then(|total| total.trim().parse().ok()).unwrap()
}

/// The least of some runs, in nanoseconds.
fn time((_, _, work): &Case, n: usize) -> f64 {
    let run = || {
        let start = Instant::now();
        work(n);
        start.elapsed().as_nanos() as f64
    };
    (0..5).map(|_| run()).fold(f64::MAX, f64::min)
}

//! Worker processes are killed and terminated, the database crashes, and the server loses connections, all while mail is being
//! sent. Afterwards the database and the server's log have to agree about each recipient of each mail.
//!
//! A control, which redelivers unacknowledged jobs as job frameworks do, has to duplicate mail under the same kills, with
//! as many mails, processes, connections and jobs at once. It is spared the rest, so that its duplicates come from the
//! kills.
//!
//! The variables `MAILS`, `KILLS`, `TERMS`, `CRASHES`, `WINDOW` and `SEED` change the run. A long one:
//!
//! ```sh
//! MAILS=40000 KILLS=40 TERMS=20 CRASHES=6 \
//!   cargo test -p postino-worker --test kills -- --nocapture --test-threads=1 nothing redelivery
//! ```
//!
//! If PostgreSQL is not installed, the tests are skipped with a note on stderr; if `POSTINO_INTEROP_REQUIRED` names `postgresql`,
//! they fail.

mod world;

#[path = "../../../tests/support/rules/mod.rs"]
mod rules;

use std::{
    collections::HashMap,
    env, fs,
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use diesel::{
    Connection, PgConnection, QueryableByName, RunQueryDsl, sql_query,
    sql_types::{Array, BigInt, Text},
};
use postino::{Client, Envelope, Raw};
use rules::{Odds, Ruled, Rules, Stored};
use world::{Cluster, Running, command, connect, count, execute, signal};

const PROCESSES: usize = 3;
const CONNECTIONS: usize = 2;

/// How the run goes wrong.
#[derive(Debug, Clone, Copy)]
struct Plan {
    mails: usize,
    window: usize,
    kills: usize,
    terms: usize,
    crashes: usize,
    seed: u64,
}

/// What is done to the workers or the database.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Blow {
    Kill,
    Term,
    Crash,
}

impl Plan {
    /// Returns the blows, evenly mixed.
    fn blows(&self) -> Vec<Blow> {
        let kinds = [(Blow::Kill, self.kills), (Blow::Term, self.terms), (Blow::Crash, self.crashes)];
        let mut blows: Vec<(f64, Blow)> = Vec::new();
        for (kind, number) in kinds {
            blows.extend((0..number).map(|n| ((n as f64 + 0.5) / number as f64, kind)));
        }
        blows.sort_by(|a, b| a.0.total_cmp(&b.0));
        blows.into_iter().map(|(_, blow)| blow).collect()
    }
}

fn setting(name: &str, default: usize) -> usize {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: not a number")))
}

/// A server that keeps a log of what it accepted.
struct Log {
    server: Ruled,
    stored: Vec<Stored>,
}

impl Log {
    fn start(seed: u64, trouble: u64) -> Log {
        let odds = Odds { seed, trouble, refusals: 100, late: Duration::from_secs(3) };
        let keywords = vec!["PIPELINING", "CHUNKING", "8BITMIME", "SIZE"];
        let server = Ruled::start(Rules { keywords, odds: Some(odds), ..Rules::default() });
        Log { server, stored: Vec::new() }
    }

    fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.server.port())
    }

    /// Returns the number of messages accepted so far.
    fn accepted(&mut self) -> usize {
        self.stored.extend(self.server.take().stored);
        self.stored.len()
    }

    /// Waits until this number of messages is accepted, or until nothing more is.
    fn wait_until(&mut self, accepted: usize) {
        let mut last = (self.accepted(), Instant::now());
        while last.0 < accepted && last.1.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(3));
            let now = self.accepted();
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
    }

    /// Returns how often each recipient of each sender was accepted.
    fn counted(&mut self) -> HashMap<(String, String), usize> {
        self.accepted();
        let mut counts = HashMap::new();
        for stored in &self.stored {
            for recipient in &stored.recipients {
                *counts.entry((stored.sender.clone(), recipient.clone())).or_default() += 1;
            }
        }
        counts
    }
}

/// The worker processes.
struct Workers {
    start: Box<dyn Fn() -> Running>,
    running: Vec<Running>,
    next: usize,
}

impl Workers {
    fn start(start: impl Fn() -> Running + 'static) -> Workers {
        let running = (0..PROCESSES).map(|_| start()).collect();
        Workers { start: Box::new(start), running, next: 0 }
    }

    /// Ends a worker and starts another one.
    fn strike(&mut self, blow: Blow) {
        let at = self.next % self.running.len();
        self.next += 1;
        if blow == Blow::Term {
            terminate(&mut self.running[at]);
        }
        self.running[at] = (self.start)(); // dropping the old one kills it
    }

    fn end(&mut self) {
        self.running.iter_mut().for_each(terminate);
    }
}

/// Terminates a worker, which has to end with success.
fn terminate(worker: &mut Running) {
    signal(&worker.0, rustix::process::Signal::TERM);
    let begun = Instant::now();
    while begun.elapsed() < world::PATIENCE {
        if let Some(status) = worker.0.try_wait().unwrap() {
            // The signal can arrive before the process handles signals.
            let is_early = status.signal() == Some(rustix::process::Signal::TERM.as_raw());
            assert!(status.success() || is_early, "a worker that was terminated: {status}");
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("a worker does not end");
}

/// `timeout` is how long a worker waits for a reply, in seconds.
fn configuration(cluster: &Cluster, url: &str, window: usize, timeout: u64) -> String {
    let path = cluster.folder().join(format!("worker-{window}.toml"));
    let text = format!(
        "poll = '50ms'\nreap = '500ms'\nidle = '5s'\n[retry]\nfirst = '100ms'\nmax = '1s'\n[lane.default]\nurl = '{url}'\n\
         connections = {CONNECTIONS}\nwindow = {window}\ntimeout = {timeout}\nfinal_reply_timeout = {timeout}\n"
    );
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn workers(database: String, configuration: String) -> Workers {
    Workers::start(move || {
        let mut command = command(&database);
        let command = command.args(["-q", "-c", &configuration, "run"]);
        let stderr = if env::var_os("SHOW").is_some() { Stdio::inherit() } else { Stdio::null() };
        Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap())
    })
}

/// Queues mail, in which every tenth has three recipients.
fn fill(sql: &mut PgConnection, mails: usize) {
    let query = format!(
        "select count(*) from generate_series(1, {mails}) n, lateral postino_enqueue('m' || n || '@x.example',
           case when n % 10 = 0 then array['a@y.example', 'nobody@y.example', 'c@y.example'] else array['a@y.example'] end,
           convert_to(E'Subject: mail ' || n || E'\\n\\n' || repeat(E'text text text\\n', 20), 'UTF8'))"
    );
    execute(sql, &query);
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    sender: String,
    #[diesel(sql_type = Text)]
    address: String,
    #[diesel(sql_type = Text)]
    outcome: String,
}

fn run(plan: Plan, trouble: u64) {
    let Some(cluster) = Cluster::start("max_connections = 60\nrestart_after_crash = on\n") else { return };
    let url = cluster.queue();
    fill(&mut connect(&url), plan.mails);
    let mut log = Log::start(plan.seed, trouble);
    let begun = Instant::now();
    let mut workers = workers(url.clone(), configuration(&cluster, &log.url(), plan.window, 3));
    let blows = plan.blows();
    for (number, blow) in blows.iter().enumerate() {
        log.wait_until((number + 1) * plan.mails * 9 / 10 / (blows.len() + 1));
        if *blow == Blow::Crash {
            cluster.crash();
            cluster.up();
        } else {
            workers.strike(*blow);
        }
    }
    let mut sql = connect(&url);
    let open = "select count(*) as n from postino_mail where state in ('ready', 'sending')";
    let (mut left, mut since) = (count(&mut sql, open), Instant::now());
    while left > 0 {
        assert!(since.elapsed() < world::PATIENCE, "{left} mails are stuck");
        thread::sleep(Duration::from_millis(50));
        log.accepted();
        let now = count(&mut sql, open);
        if now != left {
            (left, since) = (now, Instant::now());
        }
    }
    let took = begun.elapsed();
    workers.end();
    compare(&plan, &mut sql, &mut log, took);
}

/// Compares the database with the server's log.
fn compare(plan: &Plan, sql: &mut PgConnection, log: &mut Log, took: Duration) {
    let mut counts = log.counted();
    let accepted_by_server: usize = counts.values().sum();
    let rows =
        "select m.sender, r.address, r.outcome from postino_mail m join postino_recipient r on r.mail = m.id";
    let rows: Vec<Row> = sql_query(rows).load(sql).unwrap();
    let (mut totals, mut arrived) = (HashMap::<String, usize>::new(), 0);
    for row in &rows {
        let times = counts.remove(&(row.sender.clone(), row.address.clone())).unwrap_or(0);
        let what = format!("{} to {}: {}, but accepted {times} times", row.sender, row.address, row.outcome);
        match row.outcome.as_str() {
            "accepted" => assert_eq!(times, 1, "{what}"),
            "refused" => assert_eq!(times, 0, "{what}"),
            "doubt" => {
                assert!(times <= 1, "{what}");
                arrived += times;
            }
            _ => panic!("{what}"),
        }
        *totals.entry(row.outcome.clone()).or_default() += 1;
    }
    assert!(counts.is_empty(), "accepted, but not in the queue: {counts:?}");
    let total = |outcome: &str| totals.get(outcome).copied().unwrap_or(0);
    assert_eq!(rows.len(), plan.mails + plan.mails / 10 * 2);
    assert_eq!(rows.len(), total("accepted") + total("refused") + total("doubt"));
    assert_eq!(accepted_by_server, total("accepted") + arrived);
    let mails = |state: &str| format!("select count(*) as n from postino_mail where {state}");
    let reaped = count(sql, &mails("state = 'doubt' and last_reply like 'the worker was lost%'"));
    let doubt = count(sql, &mails("state = 'doubt'"));
    println!(
        "{plan:?}: {} recipients in {took:.1?}: {} accepted, {} refused, {} in doubt ({arrived} of them arrived); \
         {doubt} mails in doubt, {reaped} of them by kills; {} SMTP connections",
        rows.len(),
        total("accepted"),
        total("refused"),
        total("doubt"),
        log.server.connections()
    );
    let bound = i64::try_from(plan.window * CONNECTIONS * plan.kills).unwrap();
    assert!(reaped <= bound, "{reaped} mails are in doubt by kills, more than {bound}");
    // Without a kill, a mail is in doubt only if its connection was lost while it waited for its reply.
    let connections = i64::try_from(log.server.connections()).unwrap();
    assert!(doubt - reaped <= connections, "{} mails are in doubt without a kill", doubt - reaped);
    assert!(reaped > 0 || plan.kills < 20, "no kill hit a worker that was sending");
    assert_eq!(
        count(sql, "select count(*) as n from postino_mail where worker is not null and state <> 'doubt'"),
        0
    );
}

/// Returns the plan that the environment sets.
fn plan() -> Plan {
    Plan {
        mails: setting("MAILS", 5000),
        window: setting("WINDOW", 20),
        kills: setting("KILLS", 20),
        terms: setting("TERMS", 10),
        crashes: setting("CRASHES", 3),
        seed: setting("SEED", 1) as u64,
    }
}

#[test]
fn nothing_is_lost_or_duplicated_in_silence() {
    run(plan(), 40);
}

#[test]
fn a_crash_of_the_database_loses_no_result() {
    let plan = Plan { mails: 1000, window: 20, kills: 0, terms: 0, crashes: 3, seed: 7 };
    let Some(cluster) = Cluster::start("") else { return };
    let url = cluster.queue();
    fill(&mut connect(&url), plan.mails);
    let server = Ruled::start(Rules { keywords: vec!["PIPELINING"], ..Rules::default() });
    let mut log = Log { server, stored: Vec::new() };
    // A reply that is late on a slow machine would be a doubt that nothing settles.
    let mut workers = workers(url.clone(), configuration(&cluster, &log.url(), plan.window, 60));
    for number in 1..=plan.crashes {
        log.wait_until(number * plan.mails / 5);
        cluster.crash();
        cluster.up();
    }
    let mut sql = connect(&url);
    // Other workers may put in doubt what a worker has that is not connected again yet; its results settle that.
    world::wait_for(
        &mut sql,
        "select count(*) as n from postino_mail where state in ('ready', 'sending', 'doubt')",
        0,
    );
    workers.end();
    compare(&plan, &mut sql, &mut log, Duration::ZERO);
    assert_eq!(count(&mut sql, "select count(*) as n from postino_worker"), 0);
}

#[test]
fn redelivery_as_job_frameworks_do_it_duplicates() {
    let Some(cluster) = Cluster::start("") else { return };
    let url = cluster.database();
    let mut sql = connect(&url);
    execute(&mut sql, "create table naive (id int primary key, visible timestamptz not null default now())");
    let plan = Plan { terms: 0, crashes: 0, ..plan() };
    execute(&mut sql, &format!("insert into naive select generate_series(1, {})", plan.mails));
    let mut log = Log { server: Ruled::start(Rules::default()), stored: Vec::new() };
    let server = log.url();
    let program = env::current_exe().unwrap();
    let mut workers = Workers::start(move || {
        let mut command = Command::new(&program);
        command
            .args(["naive_worker", "--exact", "--ignored"])
            .env("NAIVE", &url)
            .env("NAIVE_SERVER", &server)
            .env("WINDOW", plan.window.to_string());
        Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    });
    let blows = plan.blows();
    for (number, blow) in blows.iter().enumerate() {
        log.wait_until((number + 1) * plan.mails * 9 / 10 / (blows.len() + 1));
        workers.strike(*blow);
    }
    world::wait_for(&mut sql, "select count(*) as n from naive", 0);
    drop(workers);
    let counts = log.counted();
    let duplicates = counts.values().filter(|times| **times > 1).count();
    println!("redelivery: {duplicates} of {} mails are duplicates after {} kills", counts.len(), plan.kills);
    assert!(counts.len() == plan.mails && (duplicates > 0 || plan.kills < 10));
}

#[derive(QueryableByName)]
struct Jobs {
    #[diesel(sql_type = Array<BigInt>)]
    ids: Vec<i64>,
}

/// The control: takes as many jobs as a worker does, which become visible to others after a while, sends them, and then
/// deletes them.
#[test]
#[ignore = "a process of the test above"]
fn naive_worker() {
    let (Ok(url), Ok(server)) = (env::var("NAIVE"), env::var("NAIVE_SERVER")) else { return };
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| redeliver(&url, &server));
        }
    });
}

fn redeliver(url: &str, server: &str) {
    let mut sql = PgConnection::establish(url).unwrap();
    let mut client = Client::from_url(server).unwrap().connect().unwrap();
    let take = format!(
        "with taken as (update naive set visible = now() + interval '5 s' where id in
           (select id from naive where visible <= now() order by id limit {} for update skip locked) returning id)
         select coalesce(array_agg(id::bigint), '{{}}') as ids from taken",
        plan().window
    );
    loop {
        let jobs: Jobs = sql_query(&take).get_result(&mut sql).unwrap();
        let mails = jobs.ids.iter().map(|id| {
            let envelope = Envelope::new(&format!("m{id}@x.example"), ["a@y.example"]).unwrap();
            Raw::bytes(envelope, "Subject: naive\n\nHi!\n")
        });
        let results: Vec<_> = client.send_all(mails.collect::<Vec<_>>()).collect();
        assert!(results.iter().all(|(_, result)| result.is_ok()));
        sql_query("delete from naive where id = any ($1::bigint[])")
            .bind::<Array<BigInt>, _>(&jobs.ids)
            .execute(&mut sql)
            .unwrap();
        if jobs.ids.is_empty() {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

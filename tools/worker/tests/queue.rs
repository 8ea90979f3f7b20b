//! The queue with a real PostgreSQL: what producers, workers and people do with it. If PostgreSQL is not installed, these tests
//! are skipped with a note on stderr; if `POSTINO_INTEROP_REQUIRED` names `postgresql`, they fail.

mod world;

#[path = "../../../tests/support/rules/mod.rs"]
mod rules;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use diesel::{Connection, PgConnection};
use postino::{
    Envelope, MailOption, RcptOption, Ret,
    testing::{Fault, Server, Step},
};
use postino_worker::{NewMail, enqueue, migrate};
use rules::{Ruled, Rules};
use world::{Cluster, Running, command, connect, count, done, execute, signal, wait_for, worker};

const MESSAGE: &str = "From: a@x.example\nSubject: hello\n\nHi!\n";

/// Returns the cluster that all tests share.
fn cluster() -> Option<&'static Cluster> {
    static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start("")).as_ref()
}

fn mail(recipients: &[&str]) -> NewMail {
    NewMail::new("a@x.example", recipients, MESSAGE).unwrap()
}

fn put(connection: &mut PgConnection, mail: &NewMail) -> i64 {
    enqueue(connection, mail).unwrap().id
}

/// A database with a queue, and a connection to it.
struct World {
    url: String,
    sql: PgConnection,
}

impl World {
    /// Returns `None` if PostgreSQL is not installed.
    fn new() -> Option<World> {
        let url = cluster()?.queue();
        let sql = connect(&url);
        Some(World { url, sql })
    }

    /// Sends what is due.
    #[track_caller]
    fn send(&self, server: &str) {
        done(&self.url, &["run", "--until-empty", "-s", server], b"");
    }

    /// Starts a worker that runs until it is stopped.
    fn start(&self, server: &str, window: &str) -> Running {
        let mut command = command(&self.url);
        let command = command.args(["run", "-s", server]).env("POSTINO_WORKER_WINDOW", window);
        Running(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Starts a worker that runs until it is stopped, and logs to a file in a new folder with this name. `keys` is the
    /// beginning of its configuration.
    fn start_with_log(&self, name: &str, server: &str, keys: &str) -> (Running, PathBuf) {
        let folder = cluster().unwrap().new_folder(name);
        let (file, log) = (folder.join("worker.toml"), folder.join("log"));
        fs::write(&file, format!("{keys}\n[lane.default]\nurl = '{server}'\n")).unwrap();
        let mut command = command(&self.url);
        let command = command.arg("run").arg("-c").arg(file).stderr(fs::File::create(&log).unwrap());
        (Running(command.stdin(Stdio::null()).spawn().unwrap()), log)
    }

    #[track_caller]
    fn count(&mut self, from: &str) -> i64 {
        count(&mut self.sql, &format!("select count(*) as n from {from}"))
    }

    fn put(&mut self, mail: &NewMail) -> i64 {
        put(&mut self.sql, mail)
    }

    fn put_many(&mut self, mails: usize) {
        for _ in 0..mails {
            self.put(&mail(&["b@y.example"]));
        }
    }
}

/// Sends SIGTERM, and waits for the end, which must be a success.
fn terminate(mut worker: Running) {
    signal(&worker.0, rustix::process::Signal::TERM);
    assert!(ended(&mut worker.0).success());
}

#[track_caller]
fn wait_until(mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < world::PATIENCE, "this should have happened");
        thread::sleep(Duration::from_millis(5));
    }
}

fn ended(child: &mut Child) -> std::process::ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(start.elapsed() < world::PATIENCE, "the worker should end");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_mail_belongs_to_the_transaction_of_its_producer() {
    let Some(mut world) = World::new() else { return };
    let rolled_back = world.sql.transaction(|sql| {
        put(sql, &mail(&["b@y.example"]));
        Err::<(), _>(diesel::result::Error::RollbackTransaction)
    });
    assert!(rolled_back.is_err());
    assert_eq!(world.count("postino_mail"), 0);
    let id = world.put(&mail(&["b@y.example"]));
    let server = Server::start().unwrap();
    world.send(&server.url());
    let messages = server.messages();
    assert_eq!((messages.len(), messages[0].recipients()), (1, &["b@y.example".to_owned()][..]));
    let content = String::from_utf8(messages[0].content().to_vec()).unwrap();
    for field in ["Message-ID: <", "Date: "] {
        assert_eq!(content.matches(field).count(), 1, "{content}");
    }
    assert!(content.ends_with("From: a@x.example\r\nSubject: hello\r\n\r\nHi!\r\n"), "{content:?}");
    let accepted =
        format!("postino_recipient where mail = {id} and outcome = 'accepted' and reply like '250 %'");
    assert_eq!(world.count(&accepted), 1);
    assert_eq!(world.count("postino_worker"), 0);
}

#[test]
fn the_two_commands_of_the_readme_send_a_mail() {
    let Some(cluster) = cluster() else { return };
    let url = cluster.database();
    let server = Server::start().unwrap();
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let section = readme.split("## Two commands").nth(1).unwrap();
    let commands: Vec<&str> = section.split("```").nth(1).unwrap().lines().skip(1).collect();
    assert_eq!(commands.len(), 2);
    let folder = std::path::Path::new(world::PROGRAM).parent().unwrap().display();
    for command in commands {
        let mut shell = Command::new("sh");
        shell.arg("-ec").arg(command.replace("smtp://localhost", &server.url()));
        let path = format!("{folder}:{}", std::env::var("PATH").unwrap());
        let output = shell.env("PATH", path).env("POSTINO_WORKER_DATABASE", &url).output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
    }
    let messages = server.messages();
    assert_eq!((messages.len(), messages[0].sender()), (1, "alice@example.org"));
}

#[test]
fn the_same_key_twice_is_one_mail() {
    let Some(mut world) = World::new() else { return };
    let keyed = mail(&["b@y.example"]).dedup("order 1");
    let first = enqueue(&mut world.sql, &keyed).unwrap();
    let second = enqueue(&mut world.sql, &keyed).unwrap();
    assert_eq!((first.is_new, second.is_new, first.id), (true, false, second.id));
    let again = done(&world.url, &["enqueue", "-f", "a@x", "--dedup", "order 1", "c@y"], b"");
    assert_eq!(again, format!("{} (queued before)\n", first.id));
    assert_eq!(world.count("postino_mail"), 1);
}

#[test]
fn invalid_mail_is_not_queued() {
    let Some(mut world) = World::new() else { return };
    let unknown = enqueue(&mut world.sql, &mail(&["b@y.example"]).lane("fast")).unwrap_err().to_string();
    assert!(unknown.contains("there is no lane named fast"), "{unknown}");
    for call in [
        "postino_enqueue('a@x', array[]::text[], '')",
        "postino_enqueue('a@x', array[E'b@y\\nRCPT TO:<c@z>'], '')",
        "postino_enqueue(E'a@x\\n', array['b@y'], '')",
        "postino_enqueue('a@x', array['b@y'], '', message_id => E'<1>\\nX: y')",
        "postino_enqueue('a@x', array['b@y', null], '')",
        "postino_enqueue('a@x', array[array['b@y'], array['c@y']], '')",
        "postino_enqueue('a@x', array['b@y'], '', due => '-infinity')",
        "postino_enqueue('a@x', array['b@y'], null)",
        "postino_enqueue('a@x', array['b@y'], '', path => 'both')",
    ] {
        assert!(
            diesel::RunQueryDsl::execute(diesel::sql_query(format!("select {call}")), &mut world.sql)
                .is_err(),
            "{call}"
        );
    }
    assert_eq!(world.count("postino_mail"), 0);
}

#[test]
fn a_python_program_can_queue_mail() {
    let Some(mut world) = World::new() else { return };
    // Debian's modules belong to Debian's interpreter, which need not be the first one in the PATH.
    let has_module = |python: &&str| {
        let status = Command::new(python).args(["-c", "import psycopg2"]).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let Some(interpreter) = ["python3", "/usr/bin/python3"].into_iter().find(has_module) else {
        let required = std::env::var("POSTINO_INTEROP_REQUIRED").unwrap_or_default();
        assert!(!required.split(',').any(|name| name == "python3-psycopg2"), "python3-psycopg2 is required");
        eprintln!("SKIPPED: psycopg2 is not installed (Debian: python3-psycopg2)");
        return;
    };
    for expected in ["mail 1\n", "mail 1 was queued before\n"] {
        let mut python = Command::new(interpreter);
        python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/enqueue.py"));
        let output = python.args([&world.url, "shop@x.example", "b@y.example", "4711"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{output:?}");
    }
    let server = Server::builder().extension("DSN", true).start().unwrap();
    world.send(&server.url());
    let messages = server.messages();
    assert!(messages[0].mail_parameters().iter().any(|parameter| parameter == "ENVID=4711"), "{messages:?}");
    assert_eq!(messages[0].recipient_parameters()[0], ["NOTIFY=FAILURE"]);
    assert_eq!(world.count("postino_mail where state = 'accepted'"), 1);
}

#[test]
fn options_are_sent() {
    let Some(mut world) = World::new() else { return };
    let options = mail(&["b@y.example", "c@y.example"]).option(MailOption::EnvelopeId("x".into())).unwrap();
    world.put(&options.recipient_options(RcptOption::NotifyNever).unwrap());
    let without = Server::builder().extension("DSN", false).start().unwrap();
    world.send(&without.url());
    assert_eq!(world.count("postino_recipient where outcome = 'refused' and reply like '%DSN%'"), 2);
    done(&world.url, &["retry", "1"], b"");
    let server = Server::builder().extension("DSN", true).start().unwrap();
    world.send(&server.url());
    assert_eq!(server.messages()[0].recipient_parameters(), [["NOTIFY=NEVER"], ["NOTIFY=NEVER"]]);
}

#[test]
fn each_recipient_keeps_its_options_when_some_are_sent_again() {
    let Some(mut world) = World::new() else { return };
    let original = RcptOption::OriginalRecipient("c@z.example".parse().unwrap());
    let envelope =
        Envelope::new("a@x.example", ["b@y.example", "invalid@y.example", "c@y.example", "d@y.example"])
            .and_then(|envelope| envelope.option(MailOption::Ret(Ret::Headers)))
            .and_then(|envelope| envelope.option(MailOption::EnvelopeId("id".into())))
            .and_then(|envelope| envelope.recipient_option(0, RcptOption::NotifyNever))
            .and_then(|envelope| envelope.recipient_option(2, original))
            .unwrap();
    world.put(&NewMail::from_mail(&postino::Raw::bytes(envelope, MESSAGE)).unwrap());
    execute(&mut world.sql, "update postino_mail set recipients[2] = 'not valid@@'");
    let server = Server::builder()
        .extension("DSN", true)
        .refuse_recipient("c@y.example", "450 4.2.1 later")
        .start()
        .unwrap();
    world.send(&server.url());
    let first = server.messages().remove(0);
    assert_eq!(first.recipients(), ["b@y.example", "d@y.example"]);
    assert!(first.mail_parameters().ends_with(&["RET=HDRS".to_owned(), "ENVID=id".to_owned()]), "{first:?}");
    assert_eq!(first.recipient_parameters(), [vec!["NOTIFY=NEVER".to_owned()], vec![]]);
    done(&world.url, &["retry", "1"], b"");
    let server = Server::builder().extension("DSN", true).start().unwrap();
    world.send(&server.url());
    let second = server.messages().remove(0);
    assert_eq!(second.recipients(), ["c@y.example"]);
    assert_eq!(second.recipient_parameters(), [["ORCPT=rfc822;c@z.example"]]);
}

#[test]
fn invalid_options_are_not_queued() {
    let Some(mut world) = World::new() else { return };
    let many = format!(r#"{{"options":[{}"require_tls"]}}"#, r#""require_tls","#.repeat(100));
    for (options, why) in [
        ("[]", "not an object"),
        (r#"{"notify":["failure"]}"#, r#"unknown key "notify""#),
        (r#"{"sender":"x@y"}"#, r#"unknown key "sender""#),
        (r#"{"options":{"ret":"full"}}"#, "options is not a list"),
        (r#"{"options":["ret"]}"#, r#"options: unknown option "ret""#),
        (r#"{"options":[{"require_tls":true}]}"#, "options: unknown option"),
        (r#"{"options":[{"ret":"full","auth":null}]}"#, "options: unknown option"),
        (r#"{"options":[null]}"#, "options: unknown option null"),
        (r#"{"recipient_options":["notify_never"]}"#, "does not consist of lists"),
        (r#"{"recipient_options":[[{"ret":"full"}]]}"#, "recipient_options: unknown option"),
        (r#"{"recipient_options":[[],[]]}"#, "more lists than there are recipients"),
        (&many, "options: more than 100 options"),
    ] {
        let call = format!("select postino_enqueue('a@x', array['b@y'], '', options => '{options}')");
        let refused = diesel::RunQueryDsl::execute(diesel::sql_query(call), &mut world.sql).unwrap_err();
        let refused = refused.to_string();
        assert!(refused.contains("invalid options: ") && refused.contains(why), "{options}: {refused}");
    }
    assert_eq!(world.count("postino_mail"), 0);
    // The worker checks the values.
    execute(
        &mut world.sql,
        r#"select postino_enqueue('a@x', array['b@y'], '', options => '{"options":[{"priority":99}]}')"#,
    );
    let server = Server::start().unwrap();
    world.send(&server.url());
    let refused = "postino_recipient where outcome = 'refused' and reply like '%riority%'";
    assert_eq!((world.count(refused), server.messages().len()), (1, 0));
}

/// The names of the options are listed in the schema too.
#[test]
fn the_queue_accepts_every_option_of_an_envelope() {
    let Some(mut world) = World::new() else { return };
    let guide = include_str!("../../../src/guide/serialization.md");
    let forms = |title: &str| {
        let rows = guide.split(title).nth(1).unwrap().split("\n\n").next().unwrap();
        let forms: Vec<&str> =
            rows.split('`').skip(1).step_by(2).filter(|form| form.starts_with(['{', '"'])).collect();
        let forms = forms
            .into_iter()
            .filter(|form| form.starts_with('{') || form.contains("require_tls") || form.contains("never"));
        forms.map(str::to_owned).collect::<Vec<_>>()
    };
    let (mail, rcpt) = (forms("| MAIL option |"), forms("| RCPT option |"));
    assert!(mail.len() >= 10 && rcpt.len() >= 4, "{mail:?} {rcpt:?}");
    for (form, options) in mail
        .iter()
        .map(|form| (form, format!(r#"{{"options":[{form}]}}"#)))
        .chain(rcpt.iter().map(|form| (form, format!(r#"{{"recipient_options":[[{form}]]}}"#))))
    {
        let call = format!("select postino_enqueue('a@x', array['b@y'], '', options => '{options}')");
        let queued = diesel::RunQueryDsl::execute(diesel::sql_query(call), &mut world.sql);
        assert!(queued.is_ok(), "{form}: {queued:?}");
    }
}

#[test]
fn only_recipients_that_were_deferred_or_refused_get_the_next_attempt() {
    let Some(mut world) = World::new() else { return };
    let id = world.put(&mail(&["b@y.example", "later@y.example", "never@y.example", "x@y.example"]));
    // The program that queues mail in SQL need not check addresses.
    execute(&mut world.sql, "update postino_mail set recipients[4] = 'not valid@@'");
    let picky = Server::builder()
        .refuse_recipient("later@y.example", "450 4.2.1 later")
        .refuse_recipient("never@y.example", "550 5.1.1 no such user")
        .start()
        .unwrap();
    world.send(&picky.url());
    let of = |outcome: &str| format!("postino_recipient where mail = {id} and outcome = '{outcome}'");
    assert_eq!(world.count(&of("accepted")), 1);
    assert_eq!(world.count(&of("deferred")), 1);
    assert_eq!(world.count(&of("refused")), 2);
    assert_eq!(world.count("postino_mail where state = 'ready' and attempts = 1 and due > now()"), 1);
    let minute = "postino_mail where due between now() + interval '20 s' and now() + interval '67 s'";
    assert_eq!(world.count(minute), 1);

    done(&world.url, &["retry", "1"], b"");
    let server = Server::start().unwrap();
    world.send(&server.url());
    assert_eq!(server.messages()[0].recipients(), ["later@y.example"]);
    assert_eq!(world.count("postino_mail where state = 'refused' and attempts = 2"), 1);

    done(&world.url, &["retry", "1"], b"");
    world.send(&server.url());
    assert_eq!(server.messages()[1].recipients(), ["never@y.example"]);
    assert_eq!(world.count(&of("accepted")), 3);
    let stuck = worker(&world.url, &["retry", "99"], b"");
    assert!(
        !stuck.status.success()
            && String::from_utf8_lossy(&stuck.stderr).contains("not refused or waiting: 99")
    );
}

#[test]
fn a_deferred_mail_is_given_up_after_five_days() {
    let Some(mut world) = World::new() else { return };
    world.put(&mail(&["b@y.example"]));
    execute(&mut world.sql, "update postino_mail set since = now() - interval '5 days', attempts = 20");
    let server = Server::builder().refuse_message("451 4.3.0 later").start().unwrap();
    world.send(&server.url());
    let given_up = "postino_recipient where outcome = 'refused' and reply like 'given up: 451 %'";
    assert_eq!(world.count(given_up), 1);
    assert_eq!(world.count("postino_mail where state = 'refused'"), 1);
}

#[test]
fn a_mail_that_waited_long_for_its_first_attempt_is_retried() {
    let Some(mut world) = World::new() else { return };
    world.put(&mail(&["b@y.example"]));
    let long =
        "update postino_mail set queued = now() - interval '6 days', since = now() - interval '6 days'";
    execute(&mut world.sql, long);
    let server = Server::builder().refuse_message("451 4.3.0 later").start().unwrap();
    world.send(&server.url());
    assert_eq!(world.count("postino_mail where state = 'ready' and attempts = 1"), 1);
}

#[test]
fn a_server_or_login_that_fails_bars_the_lane_and_no_mail_suffers() {
    let Some(mut world) = World::new() else { return };
    world.put(&mail(&["b@y.example"]));
    let untouched = "postino_mail where state = 'ready' and attempts = 0 and losses = 0 and claims = 0";
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    world.send(&format!("smtp://{closed}"));
    assert_eq!(world.count(untouched), 1);
    assert_eq!(world.count("postino_lane where failures = 1 and retry_at > now() - interval '1 h'"), 1);
    assert_eq!(world.count("postino_lane where failure like 'could not connect to 127.0.0.1%'"), 1);

    execute(&mut world.sql, "update postino_lane set retry_at = null, failures = 0, failure = null");
    let locked = Server::builder().credentials("user", "right").require_login(true).start().unwrap();
    world.send(&locked.url().replace("smtp://", "smtp://user:wrong@"));
    assert_eq!(world.count(untouched), 1);
    let long = "postino_lane where failures = 1 and retry_at > now() + interval '10 s'";
    assert_eq!(world.count(long), 1, "a refused login is not tried again soon");

    execute(&mut world.sql, "update postino_lane set retry_at = now()");
    world.send(&locked.url().replace("smtp://", "smtp://user:right@"));
    assert_eq!(world.count("postino_mail where state = 'accepted' and attempts = 1"), 1);
    assert_eq!(world.count("postino_lane where failures = 0 and retry_at is null"), 1);
}

#[test]
fn a_person_decides_about_mail_in_doubt() {
    let Some(mut world) = World::new() else { return };
    for recipients in [["b@y.example", "c@y.example"], ["d@y.example", "e@y.example"]] {
        world.put(&mail(&recipients));
    }
    // A worker that was killed: nobody has its lock.
    execute(
        &mut world.sql,
        "update postino_mail set state = 'sending', worker = 4711, claims = 1, partial = true",
    );
    execute(
        &mut world.sql,
        "insert into postino_outcome (mail, number, outcome) values (1, 1, 'accepted'), (2, 1, 'refused')",
    );
    let server = Server::start().unwrap();
    let running = world.start(&server.url(), "20");
    wait_for(&mut world.sql, "select count(*) as n from postino_mail where state = 'doubt'", 2);
    terminate(running);
    assert_eq!(world.count("postino_mail where state = 'doubt'"), 2);
    let list = done(&world.url, &["doubt", "list"], b"");
    assert!(list.lines().count() == 2 && list.contains("to c@y.example: the worker was lost"), "{list}");

    done(&world.url, &["doubt", "accept", "2"], b"");
    done(&world.url, &["doubt", "resend", "1"], b"");
    world.send(&server.url());
    let messages = server.messages();
    assert_eq!((messages.len(), messages[0].recipients()), (1, &["c@y.example".to_owned()][..]));
    assert_eq!(world.count("postino_mail where id = 1 and state = 'accepted'"), 1);
    assert_eq!(world.count("postino_mail where id = 2 and state = 'refused'"), 1);
    assert!(!worker(&world.url, &["doubt", "resend", "1", "2"], b"").status.success());
}

#[test]
fn the_rows_of_a_living_worker_are_not_taken() {
    let Some(mut world) = World::new() else { return };
    world.put(&mail(&["b@y.example"]));
    execute(&mut world.sql, "update postino_mail set state = 'sending', worker = 4711, claims = 1");
    execute(&mut world.sql, "select pg_advisory_lock(postino_lock_class(), 4711)");
    let mut other = connect(&world.url);
    assert_eq!(count(&mut other, "select count(*) as n from postino_reap(4711)"), 0);
    assert_eq!(world.count("postino_mail where state = 'sending'"), 1);
    execute(&mut world.sql, "select pg_advisory_unlock_all()");
    assert_eq!(count(&mut other, "select count(*) as n from postino_reap(4711)"), 1);
    // The worker was alive after all, and its result settles the doubt, unless somebody decided otherwise.
    let settle = "select cardinality(postino_settle(4711, '{1}', '{1}', '{accepted}', '{0}', '{t}', '{250}', '{}', '{}', '{}', '{}'))::bigint as n";
    execute(&mut other, "begin");
    assert_eq!(count(&mut other, settle), 1);
    execute(&mut other, "rollback");
    execute(&mut other, "select postino_resend(1)");
    assert_eq!(count(&mut other, settle), 0);
}

#[test]
fn a_rate_holds_over_all_workers() {
    let Some(mut world) = World::new() else { return };
    execute(&mut world.sql, "update postino_lane set rate = 10, burst = 2");
    world.put_many(12);
    let server = Server::start().unwrap();
    let begun = Instant::now(); // before the workers, which can send as soon as they run
    let workers = [world.start(&server.url(), "20"), world.start(&server.url(), "20")];
    wait_for(&mut world.sql, "select count(*) as n from postino_mail where state = 'accepted'", 12);
    // Two tokens may be there at the start; ten others take a tenth of a second each.
    assert!(begun.elapsed() > Duration::from_millis(700), "{:?}", begun.elapsed());
    workers.into_iter().for_each(terminate);
}

#[test]
fn a_paused_lane_waits() {
    let Some(mut world) = World::new() else { return };
    world.put(&mail(&["b@y.example"]));
    done(&world.url, &["pause", "default"], b"");
    let server = Server::start().unwrap();
    world.send(&server.url());
    assert_eq!(world.count("postino_mail where state = 'ready' and claims = 0"), 1);
    assert!(done(&world.url, &["status"], b"").contains("paused"));
    done(&world.url, &["resume", "default"], b"");
    world.send(&server.url());
    assert_eq!(world.count("postino_mail where state = 'accepted'"), 1);
    let status = done(&world.url, &["status"], b"");
    let line = status.lines().find(|line| line.starts_with("default")).unwrap();
    assert_eq!(
        line.split_whitespace().collect::<Vec<_>>()[..8],
        ["default", "0", "0", "0", "0", "1", "0", "0"]
    );
}

#[test]
fn large_messages_are_files_in_one_folder() {
    let Some(mut world) = World::new() else { return };
    let folder = cluster().unwrap().new_folder("files");
    let line = "x".repeat(70) + "\r\n";
    let body = line.repeat((8 << 20) / line.len());
    fs::write(folder.join("large"), format!("Subject: large\r\n\r\n{body}")).unwrap();
    for path in ["large", "../postgresql.conf", "missing"] {
        world.put(&NewMail::file("a@x.example", ["b@y.example"], path).unwrap());
    }
    let server = Server::start().unwrap();
    let mut command = command(&world.url);
    command.args(["run", "--until-empty", "-q", "-s", &server.url()]).env("POSTINO_WORKER_FILES", &folder);
    assert!(command.status().unwrap().success());
    let content = server.messages()[0].content().to_vec();
    assert!(content.starts_with(b"Message-ID: <") && content.ends_with(b"x\r\n") && content.len() > 8 << 20);
    assert_eq!(world.count("postino_mail where id = 1 and state = 'accepted'"), 1);
    assert_eq!(
        world.count(
            "postino_mail where id = 2 and state = 'refused' and last_reply like '%not a plain path%'"
        ),
        1
    );
    assert_eq!(world.count("postino_mail where id = 3 and state = 'ready' and attempts = 1"), 1);
}

#[test]
fn a_mail_can_have_ten_thousand_recipients() {
    let Some(mut world) = World::new() else { return };
    let recipients: Vec<String> = (0..10_000).map(|number| format!("r{number}@y.example")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    world.put(&mail(&recipients));
    let server = Ruled::start(Rules { keywords: vec!["PIPELINING"], room: Some(1000), ..Rules::default() });
    world.send(&format!("smtp://127.0.0.1:{}", server.port()));
    assert_eq!(world.count("postino_outcome where outcome = 'accepted'"), 10_000);
    assert_eq!(world.count("postino_mail where state = 'accepted'"), 1);
    assert_eq!(server.stored().iter().map(|stored| stored.recipients.len()).sum::<usize>(), 10_000);
}

#[test]
fn a_worker_that_is_terminated_gives_back_what_it_did_not_send() {
    let Some(mut world) = World::new() else { return };
    world.put_many(60);
    let slow = Rules {
        keywords: vec!["PIPELINING"],
        pause_between_replies: Duration::from_millis(30),
        ..Rules::default()
    };
    let server = Ruled::start(slow);
    let running = world.start(&format!("smtp://127.0.0.1:{}", server.port()), "20");
    wait_until(|| server.count("MAIL") >= 5);
    terminate(running);
    let accepted = world.count("postino_mail where state = 'accepted'");
    assert_eq!(usize::try_from(accepted).unwrap(), server.stored().len());
    assert_eq!(world.count("postino_mail where state = 'ready' and worker is null"), 60 - accepted);
    assert!(accepted < 60, "it should have been terminated in the middle");
    assert_eq!(world.count("postino_worker"), 0);
}

/// A server that never answers a message: only that mail may have been delivered.
#[track_caller]
fn the_mail_under_way_is_in_doubt(name: &str, grace: &str, signals: usize) {
    let Some(mut world) = World::new() else { return };
    world.put_many(3);
    let server = Server::builder().inject(Step::EndOfData, Fault::delay(Duration::MAX)).start().unwrap();
    let (mut running, log) = world.start_with_log(name, &server.url(), &format!("grace = '{grace}'"));
    wait_until(|| server.dialogue().iter().any(|line| line.starts_with("C: (")));
    for number in 1..=signals {
        assert!(running.0.try_wait().unwrap().is_none(), "it ended before signal {number}");
        signal(&running.0, rustix::process::Signal::TERM);
        wait_until(|| fs::read_to_string(&log).unwrap().contains("stopping"));
    }
    assert!(ended(&mut running.0).success());
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains("closing connections"), "{log}");
    assert_eq!(world.count("postino_mail where id = 1 and state = 'doubt' and last_reply is not null"), 1);
    assert_eq!(
        world.count("postino_mail where id > 1 and state = 'ready' and worker is null and losses = 0"),
        2
    );
    assert_eq!(world.count("postino_worker"), 0);
}

#[test]
fn the_end_of_the_grace_period_closes_connections() {
    the_mail_under_way_is_in_doubt("grace", "200ms", 1);
}

#[test]
fn a_second_sigterm_closes_connections() {
    the_mail_under_way_is_in_doubt("second-sigterm", "1h", 2);
}

#[test]
fn results_survive_the_loss_of_the_database_session() {
    let Some(mut world) = World::new() else { return };
    for number in 1..=60 {
        world.put(&mail(&[&format!("b{number}@y.example")]));
    }
    let slow = Rules {
        keywords: vec!["PIPELINING"],
        pause_between_replies: Duration::from_millis(30),
        ..Rules::default()
    };
    let server = Ruled::start(slow);
    let url = format!("smtp://127.0.0.1:{}", server.port());
    let (running, log) = world.start_with_log("lost-session", &url, "reap = '100ms'");
    // Mail is under way whenever the sessions are closed: its results are unknown, or not written yet.
    for accepted in [5, 30] {
        wait_until(|| server.stored().len() >= accepted);
        let close = "select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and application_name = 'postino-worker'";
        assert!(execute(&mut world.sql, close) > 0);
    }
    wait_for(&mut world.sql, "select count(*) as n from postino_mail where state = 'accepted'", 60);
    terminate(running);
    let mut recipients: Vec<String> =
        server.stored().into_iter().flat_map(|stored| stored.recipients).collect();
    recipients.sort();
    recipients.dedup();
    assert_eq!((recipients.len(), server.stored().len()), (60, 60), "each mail is sent once");
    assert_eq!(world.count("postino_recipient where outcome = 'accepted' and reply like '250%'"), 60);
    let log = fs::read_to_string(&log).unwrap();
    let written = log
        .lines()
        .filter_map(|line| line.split_once(" is back: ")?.1.split(' ').next()?.parse::<usize>().ok());
    assert!(written.sum::<usize>() > 0, "no result was written by a later session: {log}");
}

#[test]
fn a_status_that_is_watched_is_refreshed_until_nobody_reads_it() {
    let Some(mut world) = World::new() else { return };
    world.put_many(100);
    let mut command = command(&world.url);
    let command = command.args(["status", "--watch"]).stdin(Stdio::null()).stderr(Stdio::null());
    let mut watching = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let output = BufReader::new(watching.0.stdout.take().unwrap());
    let (send, lines) = mpsc::channel();
    thread::spawn(move || output.lines().try_for_each(|line| send.send(line.unwrap())));
    let next = || lines.recv_timeout(world::PATIENCE).expect("it should print another line");
    let header = next();
    let titles: Vec<&str> = header.split_whitespace().collect();
    assert_eq!(titles[..6], ["lane", "ready", "due", "retrying", "sending", "accepted"]);
    assert_eq!(titles[8..], ["mails/s", "oldest", "note"]);
    let first = next();
    let first: Vec<&str> = first.split_whitespace().collect();
    assert_eq!((&first[..6], first[8]), (&["default", "100", "100", "0", "0", "0"][..], "0.0"));
    execute(&mut world.sql, "update postino_mail set state = 'accepted', finished = now() where id <= 80");
    loop {
        assert_eq!(next(), header, "a pipe gets no control characters");
        let line = next();
        let line: Vec<&str> = line.split_whitespace().collect();
        if line[..6] == ["default", "20", "20", "0", "0", "80"] {
            assert!(line[8].parse::<f64>().unwrap() > 0.0, "{line:?}");
            break;
        }
        assert_eq!(line[..6], first[..6]);
    }
    drop(lines); // closes the pipe with the next line
    assert!(!ended(&mut watching.0).success());
}

#[test]
fn the_environment_also_applies_to_a_server_on_the_command_line() {
    let Some(mut world) = World::new() else { return };
    let server = Server::start().unwrap();
    let mut command = command(&world.url);
    command.args(["run", "-q", "-s", &server.url()]).env("POSTINO_WORKER_CONNECTIONS", "3");
    let running = Running(command.stdin(Stdio::null()).spawn().unwrap());
    wait_for(&mut world.sql, "select count(*) as n from postino_worker", 3);
    terminate(running);
}

#[test]
fn purge_deletes_only_old_mail_that_is_final() {
    let Some(mut world) = World::new() else { return };
    world.put_many(5);
    execute(
        &mut world.sql,
        "update postino_mail set state = 'accepted', finished = now() - interval '2 days' where id <= 2",
    );
    execute(&mut world.sql, "update postino_mail set finished = now() where id = 2");
    execute(
        &mut world.sql,
        "update postino_mail set state = 'doubt', finished = now() - interval '2 days' where id = 3",
    );
    execute(
        &mut world.sql,
        "update postino_mail set state = 'refused', finished = now() - interval '2 days' where id = 4",
    );
    assert_eq!(done(&world.url, &["purge", "--older-than", "1d"], b""), "1 deleted\n");
    assert_eq!(world.count("postino_mail where id > 1"), 4);
    assert_eq!(done(&world.url, &["purge", "--older-than", "1d", "--refused"], b""), "1 deleted\n");
    assert_eq!(world.count("postino_mail where id in (2, 3, 5)"), 3);
}

#[test]
fn the_schema_is_created_once_and_its_absence_is_reported() {
    let Some(cluster) = cluster() else { return };
    let url = cluster.database();
    let missing = worker(&url, &["status"], b"");
    assert!(String::from_utf8_lossy(&missing.stderr).contains("run `postino-worker migrate`"), "{missing:?}");
    let migrations: Vec<_> = (0..3)
        .map(|_| {
            thread::spawn({
                let url = url.clone();
                move || migrate(&mut connect(&url)).unwrap()
            })
        })
        .collect();
    migrations.into_iter().for_each(|migration| migration.join().unwrap());
    let mut sql = connect(&url);
    assert_eq!(count(&mut sql, "select count(*) as n from postino_schema"), 1);
    execute(&mut sql, "insert into postino_schema (version) values (99)");
    assert!(migrate(&mut sql).unwrap_err().to_string().contains("update the program"));
    assert!(!worker(&url, &["status"], b"").status.success());
}

#[test]
fn a_role_can_queue_mail_without_reading_any() {
    let Some(mut world) = World::new() else { return };
    execute(&mut world.sql, "create role shop login");
    let function =
        "function postino_enqueue(text, text[], bytea, text, text, timestamptz, jsonb, text, text)";
    let mut shop = connect(&world.url.replace("user=postgres", "user=shop"));
    assert!(enqueue(&mut shop, &mail(&["b@y.example"])).is_err());
    execute(&mut world.sql, &format!("grant execute on {function} to shop"));
    assert!(enqueue(&mut shop, &mail(&["b@y.example"])).is_ok());
    let read = diesel::sql_query("select * from postino_mail");
    assert!(diesel::RunQueryDsl::execute(read, &mut shop).is_err());
    // The function runs with the rights of its owner, so it must not use the caller's tables.
    execute(&mut shop, "create temp table postino_mail (id int)");
    execute(&mut shop, "create temp table postino_lane (name text)");
    assert!(enqueue(&mut shop, &mail(&["b@y.example"])).is_ok());
    assert_eq!(world.count("postino_mail"), 2);
}

#[test]
fn a_worker_needs_only_the_rights_in_the_readme() {
    let Some(mut world) = World::new() else { return };
    world.put_many(3);
    execute(&mut world.sql, "create role sender login");
    execute(&mut world.sql, "grant select, insert, update, delete on all tables in schema public to sender");
    let server = Server::start().unwrap();
    let url = world.url.replace("user=postgres", "user=sender");
    done(&url, &["run", "--until-empty", "-s", &server.url()], b"");
    done(&url, &["purge", "--older-than", "0s"], b"");
    assert_eq!((server.messages().len(), world.count("postino_mail")), (3, 0));
}

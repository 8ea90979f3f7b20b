//! The database from a worker's point of view: one session, which holds an advisory lock on the number of its worker.

use diesel::{
    Connection, PgConnection, QueryableByName, RunQueryDsl,
    connection::SimpleConnection,
    sql_query,
    sql_types::{Array, BigInt, Binary, Bool, Double, Integer, Nullable, Text},
};

use crate::{Error, schema, settle::Settlement};

/// Settings of a worker's session.
///
/// - What is marked as being sent must survive a crash, so commits wait for the disk.
/// - The statements are all short lookups. The statistics of a queue are always outdated, and must not mislead the planner.
/// - A machine that vanishes keeps its lock until TCP notices, which takes two hours by default, or 15 minutes if a reply was under way.
const SESSION: &str = "
    select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') in ('off', 'local');
    set enable_seqscan = off; set enable_bitmapscan = off; set enable_hashjoin = off; set enable_mergejoin = off;
    set jit = off;
    set application_name = 'postino-worker';
    set tcp_keepalives_idle = 30; set tcp_keepalives_interval = 10; set tcp_keepalives_count = 3; set tcp_user_timeout = 60000;
    set lock_timeout = '60s';
    set default_transaction_isolation = 'read committed';
    set client_min_messages = warning";

/// A mail that was claimed.
#[derive(QueryableByName)]
pub(crate) struct Claim {
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    #[diesel(sql_type = Integer)]
    pub claim: i32,
    #[diesel(sql_type = Integer)]
    pub attempts: i32,
    #[diesel(sql_type = Integer)]
    pub losses: i32,
    /// Seconds since its first attempt, or since a person resent or retried it.
    #[diesel(sql_type = Double)]
    pub age: f64,
    /// When it was queued, in seconds since 1970.
    #[diesel(sql_type = BigInt)]
    pub queued: i64,
    #[diesel(sql_type = Text)]
    pub message_id: String,
    #[diesel(sql_type = Text)]
    pub sender: String,
    #[diesel(sql_type = Array<Text>)]
    pub recipients: Vec<String>,
    /// The numbers of the recipients that have a final outcome.
    #[diesel(sql_type = Nullable<Array<Integer>>)]
    pub done: Option<Vec<i32>>,
    #[diesel(sql_type = Bool)]
    pub had_refused: bool,
    #[diesel(sql_type = Bool)]
    pub had_doubt: bool,
    #[diesel(sql_type = Text)]
    pub options: String,
    #[diesel(sql_type = Nullable<Binary>)]
    pub content: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Text>)]
    pub path: Option<String>,
}

/// What a worker has to know before it connects.
#[derive(QueryableByName, Debug)]
pub(crate) struct Outlook {
    /// Whether a mail is due.
    #[diesel(sql_type = Bool)]
    pub due: bool,
    #[diesel(sql_type = Bool)]
    pub paused: bool,
    /// Seconds until connecting is allowed; 0 if it is allowed now.
    #[diesel(sql_type = Double)]
    pub barred: f64,
    #[diesel(sql_type = Nullable<Double>)]
    pub rate: Option<f64>,
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = Integer)]
    id: i32,
}

#[derive(QueryableByName)]
struct Id {
    #[diesel(sql_type = BigInt)]
    id: i64,
}

#[derive(QueryableByName)]
struct Ids {
    #[diesel(sql_type = Array<BigInt>)]
    ids: Vec<i64>,
}

/// The columns of results, for `postino_settle`.
#[derive(Default)]
struct Columns<'s> {
    id: Vec<i64>,
    claim: Vec<i32>,
    state: Vec<&'s str>,
    wait: Vec<f64>,
    counted: Vec<bool>,
    reply: Vec<Option<&'s str>>,
    rcpt_mail: Vec<i64>,
    rcpt_number: Vec<i32>,
    rcpt_outcome: Vec<&'s str>,
    rcpt_reply: Vec<Option<&'s str>>,
}

impl<'s> Columns<'s> {
    fn of(results: &'s [Settlement]) -> Columns<'s> {
        let mut columns = Columns::default();
        for result in results {
            columns.id.push(result.id);
            columns.claim.push(result.claim);
            columns.state.push(result.state.as_str());
            columns.wait.push(result.wait.as_secs_f64());
            columns.counted.push(result.counted);
            columns.reply.push(result.reply.as_deref());
            for recipient in &result.recipients {
                columns.rcpt_mail.push(result.id);
                columns.rcpt_number.push(recipient.number);
                columns.rcpt_outcome.push(recipient.outcome);
                columns.rcpt_reply.push(recipient.reply.as_deref());
            }
        }
        columns
    }
}

/// A worker's session.
pub(crate) struct Queue {
    connection: PgConnection,
    worker: i32,
    lane: String,
}

impl Queue {
    /// Connects as a new worker, or as the worker with this number, whose earlier session was lost.
    ///
    /// The row and the lock become visible at the same time, so that nobody takes the worker for dead.
    pub fn connect(url: &str, lane: &str, worker: Option<i32>) -> Result<Queue, Error> {
        let mut connection = session(url)?;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        let worker = connection.transaction(|connection| {
            // The worker's number may still be locked: by its old session, whose loss the server has not noticed yet,
            // or by another worker that is putting in doubt what this worker had.
            if let Some(number) = worker {
                connection.batch_execute("set local lock_timeout = '5s'")?;
                lock(connection, number)?;
            }
            let insert = if worker.is_some() {
                "insert into postino_worker (id, lane, host, pid) overriding system value values ($4, $1, $2, $3)
                 on conflict (id) do update set started = now() returning id"
            } else {
                "insert into postino_worker (lane, host, pid) select $1, $2, $3 where $4 = 0 returning id"
            };
            let row: Number = sql_query(insert)
                .bind::<Text, _>(lane)
                .bind::<Text, _>(&host)
                .bind::<Integer, _>(pid)
                .bind::<Integer, _>(worker.unwrap_or(0))
                .get_result(connection)?;
            if worker.is_none() {
                lock(connection, row.id)?;
            }
            Ok::<i32, Error>(row.id)
        })?;
        Ok(Queue { connection, worker, lane: lane.to_owned() })
    }

    pub fn worker(&self) -> i32 {
        self.worker
    }

    /// Writes results and claims up to `want` mails, in one commit. Returns them in the order of their ids.
    pub fn turn(&mut self, want: usize, octets: usize, results: &[Settlement]) -> Result<Vec<Claim>, Error> {
        let columns = Columns::of(results);
        let claims = sql_query(
            "select * from postino_turn($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        )
        .bind::<Integer, _>(self.worker)
        .bind::<Text, _>(&self.lane)
        .bind::<Integer, _>(i32::try_from(want).unwrap_or(i32::MAX))
        .bind::<BigInt, _>(i64::try_from(octets).unwrap_or(i64::MAX))
        .bind::<Array<BigInt>, _>(columns.id)
        .bind::<Array<Integer>, _>(columns.claim)
        .bind::<Array<Text>, _>(columns.state)
        .bind::<Array<Double>, _>(columns.wait)
        .bind::<Array<Bool>, _>(columns.counted)
        .bind::<Array<Nullable<Text>>, _>(columns.reply)
        .bind::<Array<BigInt>, _>(columns.rcpt_mail)
        .bind::<Array<Integer>, _>(columns.rcpt_number)
        .bind::<Array<Text>, _>(columns.rcpt_outcome)
        .bind::<Array<Nullable<Text>>, _>(columns.rcpt_reply);
        let mut claims: Vec<Claim> = claims.load(&mut self.connection)?;
        claims.sort_by_key(|claim| claim.id);
        Ok(claims)
    }

    /// Writes results. Returns the ids of the mails that this worker still had.
    pub fn settle(&mut self, results: &[Settlement]) -> Result<Vec<i64>, Error> {
        if results.is_empty() {
            return Ok(Vec::new());
        }
        let columns = Columns::of(results);
        let row: Ids =
            sql_query("select postino_settle($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) as ids")
                .bind::<Integer, _>(self.worker)
                .bind::<Array<BigInt>, _>(columns.id)
                .bind::<Array<Integer>, _>(columns.claim)
                .bind::<Array<Text>, _>(columns.state)
                .bind::<Array<Double>, _>(columns.wait)
                .bind::<Array<Bool>, _>(columns.counted)
                .bind::<Array<Nullable<Text>>, _>(columns.reply)
                .bind::<Array<BigInt>, _>(columns.rcpt_mail)
                .bind::<Array<Integer>, _>(columns.rcpt_number)
                .bind::<Array<Text>, _>(columns.rcpt_outcome)
                .bind::<Array<Nullable<Text>>, _>(columns.rcpt_reply)
                .get_result(&mut self.connection)?;
        Ok(row.ids)
    }

    /// Gives back everything that this worker claimed, except these claims. Returns the ids.
    pub fn release(&mut self, keep: &[(i64, i32)]) -> Result<Vec<i64>, Error> {
        let (ids, claims): (Vec<i64>, Vec<i32>) = keep.iter().copied().unzip();
        let rows: Vec<Id> = sql_query("select postino_release($1, $2, $3) as id")
            .bind::<Integer, _>(self.worker)
            .bind::<Array<BigInt>, _>(ids)
            .bind::<Array<Integer>, _>(claims)
            .load(&mut self.connection)?;
        Ok(rows.into_iter().map(|row| row.id).collect())
    }

    /// Returns whether there is something to do in the lane.
    pub fn outlook(&mut self) -> Result<Outlook, Error> {
        let outlook = sql_query(
            "select exists (select from postino_mail m where m.lane = l.name and m.state = 'ready' and m.due <= now()) as due,
               paused, rate, greatest(0, coalesce(extract(epoch from retry_at - clock_timestamp()), 0))::float8 as barred
             from postino_lane l where name = $1",
        );
        Ok(outlook.bind::<Text, _>(&self.lane).get_result(&mut self.connection)?)
    }

    /// Records that connecting or logging in has failed, so that no worker tries again for a while. Only the first
    /// worker to fail sets the wait. Returns whether this worker was the first.
    pub fn bar_lane(&mut self, why: &str, first: f64, max: f64) -> Result<bool, Error> {
        let rows = sql_query(
            "update postino_lane set failures = failures + 1, failure = $2,
               retry_at = clock_timestamp() + make_interval(secs => least($4, $3 * 2 ^ least(failures, 20)))
             where name = $1 and (retry_at is null or retry_at <= clock_timestamp())",
        );
        let rows = rows
            .bind::<Text, _>(&self.lane)
            .bind::<Text, _>(why)
            .bind::<Double, _>(first)
            .bind::<Double, _>(max)
            .execute(&mut self.connection)?;
        Ok(rows > 0)
    }

    /// Records that a connection was made.
    pub fn open_lane(&mut self) -> Result<(), Error> {
        sql_query(
            "update postino_lane set failures = 0, failure = null, retry_at = null where name = $1 and failures > 0",
        )
        .bind::<Text, _>(&self.lane)
        .execute(&mut self.connection)?;
        Ok(())
    }

    /// Deletes the worker's row. The lock ends with the session.
    pub fn leave(mut self) -> Result<(), Error> {
        sql_query("delete from postino_worker where id = $1")
            .bind::<Integer, _>(self.worker)
            .execute(&mut self.connection)?;
        Ok(())
    }
}

fn lock(connection: &mut PgConnection, worker: i32) -> Result<(), Error> {
    sql_query("select pg_advisory_lock(postino_lock_class(), $1)")
        .bind::<Integer, _>(worker)
        .execute(connection)?;
    Ok(())
}

/// How long libpq waits for a server that does not answer, unless the connection string says otherwise. Its defaults
/// are hours, in which not even SIGTERM would end the worker.
const LIMITS: [(&str, &str); 5] = [
    ("connect_timeout", "10"),
    ("keepalives_idle", "30"),
    ("keepalives_interval", "10"),
    ("keepalives_count", "3"),
    ("tcp_user_timeout", "60000"),
];

/// Adds the limits to a connection string or URL.
fn with_limits(url: &str) -> String {
    let is_url = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    // A password may contain a question mark.
    let authority = &rest[..rest.find('/').unwrap_or(rest.len())];
    let mut has_query = rest[authority.find('@').unwrap_or(0)..].contains('?');
    let mut limited = url.to_owned();
    for (name, value) in LIMITS.iter().filter(|(name, _)| !url.contains(name)) {
        limited.push(match (is_url, has_query) {
            (false, _) => ' ',
            (true, false) => '?',
            (true, true) => '&',
        });
        limited.push_str(&format!("{name}={value}"));
        has_query = true;
    }
    limited
}

/// Connects with the settings of a worker, and checks the schema.
pub(crate) fn session(url: &str) -> Result<PgConnection, Error> {
    let mut connection = PgConnection::establish(&with_limits(url))?;
    connection.batch_execute(SESSION)?;
    schema::check(&mut connection)?;
    Ok(connection)
}

/// Adds lanes that do not exist yet, and sets the rates that the configuration names.
pub(crate) fn prepare_lane(
    connection: &mut PgConnection,
    name: &str,
    rate: Option<f64>,
    burst: Option<f64>,
) -> Result<(), Error> {
    sql_query("insert into postino_lane (name) values ($1) on conflict do nothing")
        .bind::<Text, _>(name)
        .execute(connection)?;
    if rate.is_some() || burst.is_some() {
        sql_query(
            "update postino_lane set rate = coalesce($2, rate), burst = coalesce($3, burst) where name = $1",
        )
        .bind::<Text, _>(name)
        .bind::<Nullable<Double>, _>(rate)
        .bind::<Nullable<Double>, _>(burst)
        .execute(connection)?;
    }
    Ok(())
}

/// Puts in doubt what dead workers were sending. Returns the ids of these mails.
pub(crate) fn reap(connection: &mut PgConnection) -> Result<Vec<i64>, Error> {
    // This does not wait for the locks of living workers, so nothing is delayed. Each worker takes a separate
    // transaction, because a lock that was taken lasts until the end of the transaction.
    let workers: Vec<Number> = sql_query(
        "select id from postino_worker union
         select distinct worker from postino_mail where worker is not null and state = 'sending'",
    )
    .load(connection)?;
    let mut mails = Vec::new();
    for worker in workers {
        let rows: Vec<Id> =
            sql_query("select postino_reap($1) as id").bind::<Integer, _>(worker.id).load(connection)?;
        mails.extend(rows.into_iter().map(|row| row.id));
    }
    Ok(mails)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_the_database_are_limited_unless_the_user_says_otherwise() {
        let all: Vec<String> = LIMITS.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let (words, query) = (all.join(" "), all.join("&"));
        assert_eq!(with_limits("host=db dbname=mail"), format!("host=db dbname=mail {words}"));
        assert_eq!(with_limits("postgres:///mail"), format!("postgres:///mail?{query}"));
        assert_eq!(with_limits("postgresql://u:p?w@db/mail"), format!("postgresql://u:p?w@db/mail?{query}"));
        assert_eq!(with_limits("postgres://db/mail?a=b@c"), format!("postgres://db/mail?a=b@c&{query}"));
        assert!(!with_limits("host=db connect_timeout=3").contains("connect_timeout=10"));
    }
}

//! Functions for a person: status, decisions about mail in doubt, retrying, pausing and purging.

use std::time::Duration;

use diesel::{
    PgConnection, QueryableByName, RunQueryDsl, sql_query,
    sql_types::{Array, BigInt, Bool, Double, Integer, Nullable, Text},
};

use crate::Error;

/// A lane in numbers: a row of the view `postino_status`.
#[derive(Debug, Clone, PartialEq, QueryableByName)]
#[non_exhaustive]
pub struct LaneStatus {
    /// The lane.
    #[diesel(sql_type = Text)]
    pub lane: String,
    /// Whether a person has paused it.
    #[diesel(sql_type = Bool)]
    pub paused: bool,
    /// Why its server cannot be reached, if it cannot.
    #[diesel(sql_type = Nullable<Text>)]
    pub failure: Option<String>,
    /// Mails to be sent, now or later.
    #[diesel(sql_type = BigInt)]
    pub ready: i64,
    /// Ready mails that are due now.
    #[diesel(sql_type = BigInt)]
    pub due: i64,
    /// Ready mails that have been tried before.
    #[diesel(sql_type = BigInt)]
    pub retrying: i64,
    /// Mails that workers are sending.
    #[diesel(sql_type = BigInt)]
    pub sending: i64,
    /// Mails accepted for all recipients.
    #[diesel(sql_type = BigInt)]
    pub accepted: i64,
    /// Mails refused for at least one recipient.
    #[diesel(sql_type = BigInt)]
    pub refused: i64,
    /// Mails in doubt, for a person to decide.
    #[diesel(sql_type = BigInt)]
    pub doubt: i64,
    /// Mails accepted in the last minute.
    #[diesel(sql_type = BigInt)]
    pub accepted_last_minute: i64,
    /// How long the mail that became due first has been due, in seconds.
    #[diesel(sql_type = Nullable<Double>)]
    pub oldest: Option<f64>,
    /// Number of workers: each is one connection of a worker process.
    #[diesel(sql_type = BigInt)]
    pub workers: i64,
}

/// Returns the status of all lanes.
///
/// # Errors
///
/// [`Error::Database`].
pub fn status(connection: &mut PgConnection) -> Result<Vec<LaneStatus>, Error> {
    let rows = sql_query(
        "select lane, paused, case when retry_at > now() then failure end as failure, ready, due, retrying, sending, accepted,
           refused, doubt, accepted_last_minute, extract(epoch from now() - oldest_due)::float8 as oldest, workers
         from postino_status order by lane",
    );
    Ok(rows.load(connection)?)
}

/// A mail in doubt.
#[derive(Debug, Clone, PartialEq, QueryableByName)]
#[non_exhaustive]
pub struct Doubt {
    /// The number of the mail.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// The producer's key.
    #[diesel(sql_type = Nullable<Text>)]
    pub dedup: Option<String>,
    /// The lane.
    #[diesel(sql_type = Text)]
    pub lane: String,
    /// The sender.
    #[diesel(sql_type = Text)]
    pub sender: String,
    /// The `Message-ID` that is added to the mail, unless its message has its own.
    #[diesel(sql_type = Text)]
    pub message_id: String,
    /// The recipients in doubt.
    #[diesel(sql_type = Array<Text>)]
    pub recipients: Vec<String>,
    /// The time since which it has been in doubt, in PostgreSQL's text format.
    #[diesel(sql_type = Text)]
    pub since: String,
    /// What happened.
    #[diesel(sql_type = Text)]
    pub reason: String,
}

/// Returns mails in doubt, in the order of their numbers, after the mail with the number `after`.
///
/// # Errors
///
/// [`Error::Database`].
pub fn doubts(connection: &mut PgConnection, after: i64, limit: i64) -> Result<Vec<Doubt>, Error> {
    let rows = sql_query(
        "select id, dedup, lane, sender, message_id, coalesce(finished, queued)::text as since,
           coalesce(last_reply, '') as reason,
           array(select address from postino_recipient r where r.mail = m.id and r.outcome = 'doubt') as recipients
         from postino_mail m where state = 'doubt' and id > $1 order by id limit $2",
    );
    Ok(rows.bind::<BigInt, _>(after).bind::<BigInt, _>(limit).load(connection)?)
}

#[derive(QueryableByName)]
struct Done {
    #[diesel(sql_type = Bool)]
    done: bool,
}

/// Sends a mail in doubt again, to the recipients who may not have it. This can duplicate it. Returns false if it is
/// not in doubt.
///
/// # Errors
///
/// [`Error::Database`].
pub fn resend(connection: &mut PgConnection, id: i64) -> Result<bool, Error> {
    change(connection, "select postino_resend($1) as done", id)
}

/// Records that a mail in doubt has arrived. Returns false if the mail is not in doubt.
///
/// # Errors
///
/// [`Error::Database`].
pub fn accept(connection: &mut PgConnection, id: i64) -> Result<bool, Error> {
    change(connection, "select postino_accept($1) as done", id)
}

/// Sends a refused mail again to those for whom it was refused, or makes a mail that waits for its next attempt due
/// now. Returns false if the mail is in neither state.
///
/// # Errors
///
/// [`Error::Database`].
pub fn retry(connection: &mut PgConnection, id: i64) -> Result<bool, Error> {
    change(connection, "select postino_retry($1) as done", id)
}

fn change(connection: &mut PgConnection, query: &str, id: i64) -> Result<bool, Error> {
    let row: Done = sql_query(query).bind::<BigInt, _>(id).get_result(connection)?;
    Ok(row.done)
}

/// Pauses a lane, or ends its pause. Both also end a wait after failed connections. Returns false if there is no such
/// lane.
///
/// # Errors
///
/// [`Error::Database`].
pub fn pause(connection: &mut PgConnection, lane: &str, paused: bool) -> Result<bool, Error> {
    let rows = sql_query(
        "update postino_lane set paused = $2, retry_at = null, failures = 0, failure = null where name = $1",
    )
    .bind::<Text, _>(lane)
    .bind::<Bool, _>(paused)
    .execute(connection)?;
    Ok(rows > 0)
}

/// Deletes mails in these states (`accepted`, `refused`) that became final more than `age` ago. Their dedup keys
/// are forgotten. Deletes 1,000 mails per commit. Returns the number of mails.
///
/// # Errors
///
/// [`Error::Database`].
pub fn purge(connection: &mut PgConnection, states: &[&str], age: Duration) -> Result<u64, Error> {
    let mut purged = 0;
    loop {
        let rows = sql_query(
            "delete from postino_mail where id in (
               select id from postino_mail
               where finished < now() - make_interval(secs => $1) and state = any ($2) and state in ('accepted', 'refused')
               order by finished limit $3 for update skip locked)",
        );
        let rows = rows
            .bind::<Double, _>(age.as_secs_f64())
            .bind::<Array<Text>, _>(states)
            .bind::<Integer, _>(1000)
            .execute(connection)?;
        purged += rows as u64;
        if rows == 0 {
            return Ok(purged);
        }
    }
}

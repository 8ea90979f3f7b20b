//! Creates and updates the schema. Each migration runs once, in one transaction with the others that are missing.

use diesel::{
    Connection, PgConnection, QueryableByName, RunQueryDsl,
    connection::SimpleConnection,
    sql_query,
    sql_types::{Integer, Nullable},
};

use crate::Error;

/// The migrations. Version `n` is the state after the first `n` of them. A released migration never changes.
const MIGRATIONS: [&str; 1] = [include_str!("../schema.sql")];

#[derive(QueryableByName)]
struct Version {
    #[diesel(sql_type = Nullable<Integer>)]
    version: Option<i32>,
}

/// Creates the schema, or updates it to the version of this crate. Does nothing if the schema is up to date. Several
/// programs can call this at the same time.
///
/// The objects are created in the first schema of the session's `search_path`.
///
/// # Errors
///
/// [`Error::Schema`] if the schema is newer than this crate, and [`Error::Database`] if a statement fails; then,
/// nothing is changed.
pub fn migrate(connection: &mut PgConnection) -> Result<(), Error> {
    connection.transaction(|connection| {
        connection.batch_execute(
            "select pg_advisory_xact_lock(hashtext('postino_schema'));
             set local client_min_messages = warning;
             create table if not exists postino_schema (version int primary key, applied timestamptz not null default now())",
        )?;
        for (number, migration) in (1..).zip(MIGRATIONS).skip(known(version(connection)?)?) {
            connection.batch_execute(migration)?;
            sql_query("insert into postino_schema (version) values ($1)")
                .bind::<Integer, _>(number)
                .execute(connection)?;
        }
        Ok(())
    })
}

/// Checks that the schema has the version of this crate.
///
/// # Errors
///
/// [`Error::Schema`] if the schema is missing, older or newer, and [`Error::Database`] if a query fails.
pub fn check(connection: &mut PgConnection) -> Result<(), Error> {
    let exists = sql_query("select (to_regclass('postino_schema') is not null)::int as version");
    if exists.get_result::<Version>(connection)?.version != Some(1) {
        return Err(Error::Schema("the database has no queue: run `postino-worker migrate`".to_owned()));
    }
    if known(version(connection)?)? < MIGRATIONS.len() {
        return Err(Error::Schema(
            "the queue is of an older version: run `postino-worker migrate`".to_owned(),
        ));
    }
    Ok(())
}

fn version(connection: &mut PgConnection) -> Result<i32, Error> {
    let row: Version =
        sql_query("select max(version) as version from postino_schema").get_result(connection)?;
    Ok(row.version.unwrap_or(0))
}

fn known(version: i32) -> Result<usize, Error> {
    match usize::try_from(version) {
        Ok(version) if version <= MIGRATIONS.len() => Ok(version),
        _ => Err(Error::Schema(format!(
            "the queue has version {version}, but this program knows only versions up to {}: update the program",
            MIGRATIONS.len()
        ))),
    }
}

-- The queue of postino-worker, version 1. `postino-worker migrate` runs this file once, in one transaction.
--
-- All names begin with postino_. They are created in the first schema of the search_path, and found through it.

-- The workers write replies of servers and read addresses as UTF-8. One that the encoding cannot express would fail each commit.
do $$ begin
  if current_setting('server_encoding') <> 'UTF8' then
    raise exception 'postino: the encoding of the database must be UTF8, not % (createdb -E UTF8 -T template0)',
      current_setting('server_encoding');
  end if;
end $$;

-- A lane is a relay, with its rate and its pauses. Each worker serves one lane.
create table postino_lane (
  name text primary key,
  -- Set by a person: nothing is sent while it is true.
  paused boolean not null default false,
  -- Messages per second over all workers. Null means no limit.
  rate float8 check (rate > 0),
  -- Messages that can be sent at once after a quiet time, if there is a rate.
  burst float8 not null default 1 check (burst >= 1),
  tokens float8 not null default 0,
  filled timestamptz not null default now(),
  -- Set by workers that cannot connect or log in: nobody connects before this time.
  retry_at timestamptz,
  failures int not null default 0,
  failure text
);
insert into postino_lane (name) values ('default');

-- A worker is one connection of a worker process. While it lives, its session holds an advisory lock on its number.
create table postino_worker (
  id int generated always as identity primary key,
  lane text not null,
  host text not null,
  pid int not null,
  started timestamptz not null default now()
);

create table postino_mail (
  id bigint generated always as identity primary key,
  -- The producer's key: a second mail with the same key is not queued.
  dedup text unique,
  lane text not null,
  -- ready: to be sent once it is due. sending: a worker has it, and may have sent it. The others are final: accepted by all
  -- recipients; refused, for at least one recipient; doubt, for a person to decide.
  state text not null default 'ready' check (state in ('ready', 'sending', 'accepted', 'refused', 'doubt')),
  due timestamptz not null default now() check (isfinite(due)),
  -- Attempts that the server answered. Lost connections do not count.
  attempts int not null default 0,
  -- Lost connections since the last attempt.
  losses int not null default 0,
  -- Number of times that a worker claimed it. Together with the worker's number, this fences each write.
  claims int not null default 0,
  worker int,
  queued timestamptz not null default now(),
  -- When the attempts began: when it was claimed before its first attempt, or when a person last resent or retried it.
  since timestamptz not null default now(),
  finished timestamptz,
  -- Whether postino_outcome has rows for it.
  partial boolean not null default false,
  -- Added to a message that has none. Likewise, `queued` is added as its date.
  message_id text not null,
  -- The empty text is the null reverse-path of bounces.
  sender text not null,
  recipients text[] not null check (
    cardinality(recipients) between 1 and 10000 and array_ndims(recipients) = 1 and array_position(recipients, null) is null),
  options jsonb not null default '{}' check (jsonb_typeof(options) = 'object'),
  -- At most 64 MiB. Larger messages are files: `path` is relative to the folder `files` of the worker's configuration.
  content bytea check (octet_length(content) <= 67108864),
  path text,
  last_reply text,
  check ((content is null) <> (path is null))
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.2);

create index postino_mail_ready on postino_mail (lane, due, id) include (attempts) where state = 'ready';
create index postino_mail_worker on postino_mail (worker) where worker is not null;
create index postino_mail_doubt on postino_mail (id) where state = 'doubt';
create index postino_mail_finished on postino_mail (state, finished, lane) where finished is not null;

-- What became of each recipient. Recipients without a row are in the state of the mail.
create table postino_outcome (
  mail bigint not null references postino_mail on delete cascade,
  -- The index in `recipients`, from 1.
  number int not null,
  -- deferred: refused with 4yz, and tried again as long as the mail is ready.
  outcome text not null check (outcome in ('accepted', 'refused', 'deferred', 'doubt')),
  reply text,
  at timestamptz not null default now(),
  primary key (mail, number)
);

-- Returns what is wrong with the options of a mail, or null. They have the form of an envelope in postino's feature `serde`.
-- The worker also checks the values of the options, and refuses the mail if one is invalid.
create function postino_wrong_options(options jsonb, recipients int) returns text language plpgsql as $$
declare
  -- A colon marks those that are objects.
  for_mail text[] := '{require_tls,ret:,envelope_id:,priority:,deliver_by:,hold_for:,hold_until:,auth:,xverp:,raw:}';
  for_rcpt text[] := '{notify_never,notify:,original_recipient:,raw:}';
  field text;
  list jsonb;
  option jsonb;
  name text;
begin
  if jsonb_typeof(options) <> 'object' then
    return 'not an object';
  end if;
  for field, list in select * from jsonb_each(options) loop
    if field not in ('options', 'recipient_options') then
      return format('unknown key %s: only "options" and "recipient_options" are allowed', to_json(field));
    elsif jsonb_typeof(list) <> 'array' then
      return field || ' is not a list';
    end if;
  end loop;
  if jsonb_array_length(options -> 'recipient_options') > recipients then
    return 'recipient_options has more lists than there are recipients';
  end if;
  for field, list in
    select 'options', options -> 'options' where options ? 'options'
    union all select 'recipient_options', jsonb_array_elements(options -> 'recipient_options')
  loop
    if jsonb_typeof(list) <> 'array' then
      return 'recipient_options does not consist of lists, one for each recipient';
    elsif jsonb_array_length(list) > 100 then
      return field || ': more than 100 options';
    end if;
    for option in select * from jsonb_array_elements(list) loop
      name := case jsonb_typeof(option)
        when 'string' then option #>> '{}'
        when 'object' then (select string_agg(k || ':', '') from jsonb_object_keys(option) k)
      end;
      if name is null or field = 'options' and name <> all (for_mail) or field <> 'options' and name <> all (for_rcpt) then
        return format('%s: unknown option %s', field, left(option::text, 200));
      end if;
    end loop;
  end loop;
  return null;
end $$;

-- Queues a mail in the caller's transaction. Callers need only the right to execute this function. If a mail with this
-- dedup key exists, its id is returned, and nothing is queued.
create function postino_enqueue(
  sender text, recipients text[], content bytea, dedup text default null, lane text default 'default',
  due timestamptz default now(), options jsonb default '{}', path text default null, message_id text default null
) returns table (id bigint, is_new boolean)
language plpgsql security definer as $$
#variable_conflict use_column
declare
  domain text := lower(substring(postino_enqueue.sender from '@([A-Za-z0-9.-]+)$'));
  wrong text := postino_wrong_options(postino_enqueue.options, cardinality(postino_enqueue.recipients));
begin
  if not exists (select from postino_lane l where l.name = postino_enqueue.lane) then
    raise exception 'postino: there is no lane named %', postino_enqueue.lane using errcode = 'invalid_parameter_value';
  end if;
  if postino_enqueue.sender ~ '[[:cntrl:]]' or postino_enqueue.message_id ~ '[[:cntrl:]]'
    or exists (select from unnest(postino_enqueue.recipients) r where r is null or r = '' or r ~ '[[:cntrl:]]')
  then
    raise exception 'postino: a recipient is empty, or an address or Message-ID contains control characters'
      using errcode = 'invalid_parameter_value';
  end if;
  if wrong is not null then
    raise exception 'postino: invalid options: %', wrong using errcode = 'invalid_parameter_value';
  end if;
  insert into postino_mail as m (dedup, lane, due, message_id, sender, recipients, options, content, path)
  values (
    postino_enqueue.dedup, postino_enqueue.lane, coalesce(postino_enqueue.due, now()),
    coalesce(postino_enqueue.message_id, '<' || gen_random_uuid() || '@' || coalesce(domain, 'localhost') || '>'),
    coalesce(postino_enqueue.sender, ''), postino_enqueue.recipients, coalesce(postino_enqueue.options, '{}'),
    postino_enqueue.content, postino_enqueue.path)
  on conflict (dedup) do nothing
  returning m.id into id;
  is_new := found;
  if not found then
    select m.id into id from postino_mail m where m.dedup = postino_enqueue.dedup;
  end if;
  return next;
end $$;
revoke execute on function postino_enqueue from public;
-- The function runs with the rights of its owner, so it must not find temporary tables of its caller.
do $$ begin
  execute format('alter function postino_enqueue set search_path = %I, pg_temp', current_schema());
end $$;

-- The first key of the advisory locks. It differs between two queues in one database.
create function postino_lock_class() returns int language sql stable as $$
  select ('postino_worker'::regclass::oid::bigint - 2147483648)::int
$$;

-- Writes results of a worker. Results are fenced: a row is written only if this worker still has it, by the same claim.
-- `doubt` with the worker's number means that the worker was thought dead; its result settles the doubt. Returns the ids of
-- the rows that were written.
create function postino_settle(
  p_worker int, p_id bigint[], p_claim int[], p_state text[], p_wait float8[], p_counted boolean[], p_reply text[],
  p_rcpt_mail bigint[], p_rcpt_number int[], p_rcpt_outcome text[], p_rcpt_reply text[]
) returns bigint[] language plpgsql as $$
declare
  written bigint[];
begin
  with result as (
    select * from unnest(p_id, p_claim, p_state, p_wait, p_counted, p_reply) r (id, claim, state, wait, counted, reply)
  ), done as (
    update postino_mail m set
      state = r.state,
      worker = null,
      due = case when r.state = 'ready' then now() + make_interval(secs => r.wait) else m.due end,
      attempts = m.attempts + r.counted::int,
      losses = case when r.counted then 0 else m.losses + 1 end,
      finished = case when r.state = 'ready' then null else now() end,
      partial = m.partial or m.id = any (p_rcpt_mail),
      last_reply = coalesce(r.reply, m.last_reply)
    from result r
    where m.id = r.id and m.claims = r.claim and m.worker = p_worker and m.state in ('sending', 'doubt')
    returning m.id
  )
  select array_agg(id) into written from done;
  insert into postino_outcome as o (mail, number, outcome, reply)
  select * from unnest(p_rcpt_mail, p_rcpt_number, p_rcpt_outcome, p_rcpt_reply) r (mail, number, outcome, reply)
  where r.mail = any (written)
  on conflict (mail, number) do update set outcome = excluded.outcome, reply = excluded.reply, at = excluded.at;
  return coalesce(written, '{}');
end $$;

-- Takes due mail of a lane, and marks it as being sent: at most p_want messages, within the rate of the lane, and none
-- after the message with which the content reaches p_octets.
create function postino_claim(p_worker int, p_lane text, p_want int, p_octets bigint)
returns table (
  id bigint, claim int, attempts int, losses int, age float8, queued bigint, message_id text, sender text,
  recipients text[], done int[], had_refused boolean, had_doubt boolean, options text, content bytea, path text
) language plpgsql as $$
#variable_conflict use_column
declare
  lane postino_lane;
  available float8;
  taken int;
begin
  select * into lane from postino_lane l where l.name = p_lane;
  if not found or lane.paused or p_want < 1 then
    return;
  end if;
  if lane.rate is not null then
    -- The row stays locked until the end of the transaction, which is only this statement.
    update postino_lane l set
      tokens = least(burst, tokens + rate * greatest(0, extract(epoch from clock_timestamp() - filled))),
      filled = clock_timestamp()
    where l.name = p_lane returning tokens into available;
    p_want := least(p_want, floor(available));
    if p_want < 1 then
      return;
    end if;
  end if;
  return query
    with due as materialized (
      select m.id, m.due, coalesce(octet_length(m.content), 0) as octets from postino_mail m
      where m.lane = p_lane and m.state = 'ready' and m.due <= now()
      order by m.due, m.id limit p_want for update skip locked
    ), chosen as (
      select d.id from (select d.id, sum(d.octets) over (order by d.due, d.id) - d.octets as before from due d) d
      where d.before < p_octets
    )
    update postino_mail m set state = 'sending', worker = p_worker, claims = m.claims + 1,
      -- The time before it was due, and that of a pause, must not count as attempts.
      since = case when m.attempts = 0 then now() else m.since end
    from chosen where m.id = chosen.id
    returning m.id, m.claims, m.attempts, m.losses, extract(epoch from now() - m.since)::float8,
      extract(epoch from m.queued)::bigint, m.message_id, m.sender, m.recipients,
      case when m.partial then array(select o.number from postino_outcome o where o.mail = m.id and o.outcome <> 'deferred') end,
      m.partial and exists (select from postino_outcome o where o.mail = m.id and o.outcome = 'refused'),
      m.partial and exists (select from postino_outcome o where o.mail = m.id and o.outcome = 'doubt'),
      m.options::text, m.content, m.path;
  get diagnostics taken = row_count;
  if lane.rate is not null and taken > 0 then
    update postino_lane l set tokens = tokens - taken where l.name = p_lane;
  end if;
end $$;

-- One turn of a worker: writes results and claims, in one commit.
create function postino_turn(
  p_worker int, p_lane text, p_want int, p_octets bigint,
  p_id bigint[], p_claim int[], p_state text[], p_wait float8[], p_counted boolean[], p_reply text[],
  p_rcpt_mail bigint[], p_rcpt_number int[], p_rcpt_outcome text[], p_rcpt_reply text[]
) returns table (
  id bigint, claim int, attempts int, losses int, age float8, queued bigint, message_id text, sender text,
  recipients text[], done int[], had_refused boolean, had_doubt boolean, options text, content bytea, path text
) language plpgsql as $$
begin
  if cardinality(p_id) > 0 then
    perform postino_settle(p_worker, p_id, p_claim, p_state, p_wait, p_counted, p_reply,
      p_rcpt_mail, p_rcpt_number, p_rcpt_outcome, p_rcpt_reply);
  end if;
  return query select * from postino_claim(p_worker, p_lane, p_want, p_octets);
end $$;

-- Gives back what this worker claimed and certainly did not send: everything except the claims that are listed.
create function postino_release(p_worker int, p_id bigint[], p_claim int[]) returns setof bigint language sql as $$
  update postino_mail m set state = 'ready', worker = null, finished = null
  where m.worker = p_worker and m.state in ('sending', 'doubt')
    and not exists (select from unnest(p_id, p_claim) k (id, claim) where k.id = m.id and k.claim = m.claims)
  returning m.id
$$;

-- If this worker is dead, puts what it may have sent in doubt. The lock is taken first, and only then are the rows read. A
-- single statement that looks at pg_locks could take rows from living workers: PostgreSQL rechecks rows, but not locks.
create function postino_reap(p_worker int) returns setof bigint language plpgsql as $$
begin
  if not pg_try_advisory_xact_lock(postino_lock_class(), p_worker) then
    return;
  end if;
  return query
    update postino_mail m set state = 'doubt', finished = now(), last_reply = 'the worker was lost while it was sending'
    where m.worker = p_worker and m.state = 'sending' returning m.id;
  delete from postino_worker w where w.id = p_worker;
end $$;

-- Each recipient of each mail, with its outcome: queued, sending, deferred, accepted, refused or doubt.
create view postino_recipient as
select m.id as mail, r.number::int as number, r.address,
  case
    when o.outcome in ('accepted', 'refused', 'doubt') then o.outcome
    when m.state = 'ready' then coalesce(o.outcome, 'queued')
    else m.state
  end as outcome,
  o.reply, o.at
from postino_mail m
cross join lateral unnest(m.recipients) with ordinality r (address, number)
left join postino_outcome o on o.mail = m.id and o.number = r.number;

-- For a person: sends a mail in doubt again, to the recipients who may not have it. This can duplicate it.
create function postino_resend(p_id bigint) returns boolean language plpgsql as $$
begin
  update postino_mail set state = 'ready', worker = null, finished = null, due = now(), since = now(), losses = 0
  where id = p_id and state = 'doubt';
  if found then
    delete from postino_outcome where mail = p_id and outcome in ('doubt', 'deferred');
    return true;
  end if;
  return false;
end $$;

-- For a person: records that a mail in doubt has arrived.
create function postino_accept(p_id bigint) returns boolean language plpgsql as $$
begin
  perform from postino_mail where id = p_id and state = 'doubt' for update;
  if not found then
    return false;
  end if;
  insert into postino_outcome as o (mail, number, outcome, reply)
  select r.mail, r.number, 'accepted', 'accepted by hand' from postino_recipient r where r.mail = p_id and r.outcome = 'doubt'
  on conflict (mail, number) do update set outcome = excluded.outcome, reply = excluded.reply, at = excluded.at;
  update postino_mail set worker = null, finished = now(), partial = true, state = case
    when exists (select from postino_outcome where mail = p_id and outcome = 'refused') then 'refused' else 'accepted' end
  where id = p_id;
  return true;
end $$;

-- For a person: sends a refused mail again, to those for whom it was refused. A mail that waits for its next attempt becomes due.
create function postino_retry(p_id bigint) returns boolean language plpgsql as $$
begin
  update postino_mail set due = least(due, now()) where id = p_id and state = 'ready';
  if found then
    return true;
  end if;
  update postino_mail set state = 'ready', finished = null, due = now(), since = now(), attempts = 0, losses = 0
  where id = p_id and state = 'refused';
  if found then
    delete from postino_outcome where mail = p_id and outcome in ('refused', 'deferred');
    return true;
  end if;
  return false;
end $$;

-- The numbers of each lane, for dashboards. The view reads the index entries of all mail that was not purged, and not the
-- table itself, provided that vacuum keeps up.
create view postino_status as
with ready as (
  select lane, count(*) as ready, count(*) filter (where due <= now()) as due, count(*) filter (where attempts > 0) as retrying,
    min(due) filter (where due <= now()) as oldest_due
  from postino_mail where state = 'ready' group by lane
), sending as (
  select lane, count(*) as sending from postino_mail where worker is not null and state = 'sending' group by lane
), final as (
  select lane, count(*) filter (where state = 'accepted') as accepted, count(*) filter (where state = 'refused') as refused,
    count(*) filter (where state = 'doubt') as doubt
  from postino_mail where finished is not null group by lane
), recent as (
  select lane, count(*) as accepted from postino_mail
  where state = 'accepted' and finished > now() - interval '1 minute' group by lane
), workers as (
  select lane, count(*) as workers from postino_worker group by lane
)
select l.name as lane, l.paused, l.retry_at, l.failure,
  coalesce(r.ready, 0) as ready, coalesce(r.due, 0) as due, coalesce(r.retrying, 0) as retrying,
  coalesce(s.sending, 0) as sending, coalesce(f.accepted, 0) as accepted, coalesce(f.refused, 0) as refused,
  coalesce(f.doubt, 0) as doubt, coalesce(a.accepted, 0) as accepted_last_minute, r.oldest_due,
  coalesce(w.workers, 0) as workers
from postino_lane l
left join ready r on r.lane = l.name
left join sending s on s.lane = l.name
left join final f on f.lane = l.name
left join recent a on a.lane = l.name
left join workers w on w.lane = l.name;

-- Entries inserted past the service can neither stop the log nor a customer's consent: their shape, time and version are
-- checked when they are inserted, a version without its consent is skipped, and both stay visible until resolved.

-- Why an entry is set aside, and the event that resolved it. Rows stay after that: a skipped version is never adopted.
alter table vlaapi.audit_quarantine
  -- The entry's version is in the trail, and the consent never was at it.
  add column foreign_version boolean not null default false,
  add column resolved_by bigint,
  add column resolved_at timestamptz,
  add constraint audit_quarantine_resolved_at_calendar_check
    check (resolved_at between timestamptz '0001-01-01 00:00:00+00' and timestamptz '9999-12-31 23:59:59.999999+00');

alter table vlaapi.audit_events
  drop constraint audit_events_kind_check,
  add constraint audit_events_kind_check
    check (kind in ('log.opened', 'pii.erased', 'pii.read', 'quarantine.resolved'));

-- The encoding of an entry's leaf. A program leaves entries of an encoding that it does not know in the queue.
alter table vlaapi.customer_consent_audit add column leaf_version smallint not null default 1;
alter table vlaapi.audit_events add column leaf_version smallint not null default 1;
alter table vlaapi.audit_pending add column leaf_version smallint not null default 1;

create or replace function vlaapi.queue_audit_entry() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into vlaapi.audit_pending (audit_id, leaf_version) values (new.audit_id, new.leaf_version);
  return null;
end
$$;

-- Whether a value is a consent as entries keep it: exactly the known members, each of its type.
create function vlaapi.is_consent_state(state jsonb) returns boolean
  language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  member text;
begin
  if jsonb_typeof(state) <> 'object' then
    return false;
  end if;
  if state - array['consent_tier', 'can_store_images', 'can_store_embeddings', 'can_use_for_training',
                   'anonymization_level', 'policy_version', 'expires_at', 'consent_granted_at'] <> '{}'
  then
    return false;
  end if;
  foreach member in array array['can_store_images', 'can_store_embeddings', 'can_use_for_training'] loop
    if jsonb_typeof(state -> member) is distinct from 'boolean' then
      return false;
    end if;
  end loop;
  if coalesce(state ->> 'consent_tier', '') not in ('none', 'basic', 'analytics', 'research')
    or coalesce(state ->> 'anonymization_level', '') not in ('full', 'partial', 'minimal', 'none')
    or coalesce(jsonb_typeof(state -> 'policy_version'), 'null') not in ('string', 'null')
    or length(state ->> 'policy_version') > 64
  then
    return false;
  end if;
  foreach member in array array['expires_at', 'consent_granted_at'] loop
    if coalesce(jsonb_typeof(state -> member), 'null') = 'null' then
      continue;
    end if;
    if jsonb_typeof(state -> member) <> 'string'
      or state ->> member !~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?Z$'
    then
      return false;
    end if;
    -- A day that no calendar has is an error here.
    perform (state ->> member)::timestamptz;
  end loop;
  return true;
exception
  when data_exception then return false;
end
$$;

-- Checks an entry that the service did not write. Security definer: an entry waits for whoever changes the same consent.
create function vlaapi.check_audit_entry() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  -- One more than an integer can be is a number too.
  newest bigint;
  drawn bigint;
begin
  if new.timestamp is null or new.timestamp not between timestamptz '1970-01-01T00:00:00Z' and timestamptz '9999-12-31T23:59:59Z' then
    raise exception 'the time of an audit entry must lie between 1970 and 9999' using errcode = 'check_violation';
  end if;
  if new.previous is not null and not vlaapi.is_consent_state(new.previous)
    or new.current is not null and not vlaapi.is_consent_state(new.current)
  then
    raise exception 'previous and current must be consents: objects with exactly the members that vlaapi.consent_state() makes'
      using errcode = 'check_violation';
  end if;
  if octet_length(new.change_reason) > 16000 or octet_length(new.user_agent) > 16000 then
    raise exception 'change_reason and user_agent must have at most 16000 bytes' using errcode = 'check_violation';
  end if;
  -- What follows is about entries that come alone. The trigger of a consent writes one with the change itself, and a
  -- change must never fail because a clock was wrong before.
  if pg_trigger_depth() > 1 then
    return new;
  end if;
  if new.timestamp > clock_timestamp() + interval '1 day' then
    raise exception 'the time of an audit entry must not lie in the future' using errcode = 'check_violation';
  end if;
  select last_value into drawn from vlaapi.customer_consent_audit_audit_id_seq;
  if new.audit_id < 1 or new.audit_id > drawn + 1000000000 then
    raise exception 'the id of an audit entry must be one of the sequence customer_consent_audit_audit_id_seq'
      using errcode = 'check_violation';
  end if;
  perform from vlaapi.customer_data_consent where customer_id = new.customer_id for update;
  select version into newest
  from vlaapi.customer_consent_audit
  where customer_id = new.customer_id
  order by version desc
  limit 1;
  if new.version > coalesce(newest, 0) + 1 then
    raise exception 'the version of an audit entry must be at most %, the next one of its customer', coalesce(newest, 0) + 1
      using errcode = 'check_violation';
  end if;
  return new;
end
$$;

-- For entries that carry no word of the service, as they are salted and queued: a longer condition costs each write of
-- the service as much as a tenth of the statement. Whatever carries a false word is set aside by the sealer.
create trigger customer_consent_audit_check before insert on vlaapi.customer_consent_audit
  for each row when (new.mac is null) execute function vlaapi.check_audit_entry();

create function vlaapi.check_audit_event() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  known text[] := case new.kind
    when 'log.opened' then array['origin', 'adopted_through', 'previous']
    when 'pii.erased' then array['legal_basis', 'fields', 'entries', 'customer_fields', 'replays']
    when 'pii.read' then array['what']
    when 'quarantine.resolved' then array['entries']
  end;
  is_known boolean;
  drawn bigint;
begin
  if new.timestamp not between timestamptz '1970-01-01T00:00:00Z' and clock_timestamp() + interval '1 day' then
    raise exception 'the time of an audit event must not lie in the future, or before 1970' using errcode = 'check_violation';
  end if;
  is_known := case
    when jsonb_typeof(new.details) is distinct from 'object' or pg_column_size(new.details) > 60000 then false
    else new.details - known = '{}' and octet_length(new.details::text) <= 60000
      and not jsonb_path_exists(new.details, '$.**{8}')
  end;
  if not is_known then
    raise exception 'the details of an audit event must be an object with the members of its kind, of at most 60000 bytes'
      using errcode = 'check_violation';
  end if;
  if octet_length(new.change_reason) > 16000 or octet_length(new.user_agent) > 16000 then
    raise exception 'change_reason and user_agent must have at most 16000 bytes' using errcode = 'check_violation';
  end if;
  select last_value into drawn from vlaapi.customer_consent_audit_audit_id_seq;
  if new.audit_id < 1 or new.audit_id > drawn + 1000000000 then
    raise exception 'the id of an audit event must be one of the sequence customer_consent_audit_audit_id_seq'
      using errcode = 'check_violation';
  end if;
  return new;
end
$$;

create trigger audit_events_check before insert on vlaapi.audit_events
  for each row when (new.mac is null) execute function vlaapi.check_audit_event();

-- Returns the first version above another one that a customer's trail has no entry of. Changes nothing: the trigger before an
-- insert also runs for a statement that then updates.
create function vlaapi.free_consent_version(customer uuid, at_version integer) returns integer
  language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select taken.version + 1
  from (
    select at_version as version
    union all
    (
      select version from vlaapi.customer_consent_audit
      where customer_id = customer and version > at_version
      order by version
    )
  ) taken
  where taken.version < 2147483647 and not exists (
    select from vlaapi.customer_consent_audit following
    where following.customer_id = customer and following.version = taken.version + 1
  )
  order by taken.version
  limit 1
$$;

-- Returns the next version of a consent that is at a version. Entries in between are not the consent's: they are set aside,
-- and stay where they are.
create function vlaapi.next_consent_version(customer uuid, at_version integer) returns integer
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  free integer := vlaapi.free_consent_version(customer, at_version);
begin
  if free > at_version + 1 then
    insert into vlaapi.audit_quarantine as kept (audit_id, reason, found_at, foreign_version)
    select audit_id, format('version %s is in the trail without its consent, which was at version %s', version, at_version),
      clock_timestamp(), true
    from vlaapi.customer_consent_audit
    where customer_id = customer and version > at_version and version < free
    on conflict (audit_id) do update set foreign_version = true where not kept.foreign_version;
  end if;
  return free;
end
$$;

-- Numbers every change: the version goes up by one, or by as many as have entries. The time never goes back, except after
-- the end of the calendar, which no clock shows: otherwise no change could follow, not even a withdrawal. Times outside the
-- calendar are brought into it.
create or replace function vlaapi.number_consent_change() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  last record;
  decided boolean;
  folded boolean;
  calendar_end constant timestamptz := '9999-12-31 23:59:59.999999+00';
begin
  -- One condition, which almost no row meets.
  if vlaapi.calendar_time(new.expires_at) <> new.expires_at
    or vlaapi.calendar_time(new.consent_granted_at) <> new.consent_granted_at
    or vlaapi.calendar_time(new.consent_updated_at) <> new.consent_updated_at
  then
    new.expires_at := vlaapi.calendar_time(new.expires_at);
    new.consent_granted_at := vlaapi.calendar_time(new.consent_granted_at);
    -- A change is made now, unless a clock says otherwise.
    if vlaapi.calendar_time(new.consent_updated_at) <> new.consent_updated_at then
      new.consent_updated_at := clock_timestamp();
    end if;
  end if;

  if tg_op = 'INSERT' then
    -- A row which comes after its trail (a load of both) makes no new version; the trigger after it holds it to the entry.
    if new.version > 0 and new.audit_id is not null then
      select action, current into last
      from vlaapi.customer_consent_audit
      where customer_id = new.customer_id and version = new.version and audit_id = new.audit_id;
      if found then
        new.expiry_recorded := last.action = 'expired';
        new.consent_granted_at := vlaapi.calendar_time((last.current ->> 'consent_granted_at')::timestamptz);
        return new;
      end if;
    end if;

    -- A customer who was deleted and comes back goes on in the trail, after the entry that records the deletion. Other
    -- entries without a consent are not adopted.
    select version, audit_id, timestamp into last
    from vlaapi.customer_consent_audit
    where customer_id = new.customer_id and action = 'erased'
    order by version desc
    limit 1;

    new.expiry_recorded := false;
    decided := new.consent_tier <> 'none' or new.can_store_images or new.can_store_embeddings
      or new.can_use_for_training or new.anonymization_level <> 'full'
      or new.expires_at is not null or new.policy_version is not null;
    if not decided then
      new.version := coalesce(last.version, 0);
      new.audit_id := last.audit_id;
      new.consent_granted_at := null;
      new.consent_updated_at := coalesce(vlaapi.calendar_time(last.timestamp), new.consent_updated_at);
      return new;
    end if;
    new.version := vlaapi.free_consent_version(new.customer_id, coalesce(last.version, 0));
    if new.audit_id is null then
      perform pg_current_xact_id();
      new.audit_id := nextval('vlaapi.customer_consent_audit_audit_id_seq');
    end if;
    if last.timestamp < calendar_end then
      new.consent_updated_at := greatest(new.consent_updated_at, last.timestamp + interval '1 microsecond');
    end if;
    if new.consent_tier <> 'none' then
      new.consent_granted_at := coalesce(new.consent_granted_at, new.consent_updated_at);
    end if;
    return new;
  end if;

  if new.customer_id <> old.customer_id then
    raise exception 'a consent cannot be moved to another customer' using errcode = 'integrity_constraint_violation';
  end if;
  decided := (new.consent_tier, new.can_store_images, new.can_store_embeddings, new.can_use_for_training,
              new.anonymization_level, new.expires_at, new.policy_version)
    is distinct from (old.consent_tier, old.can_store_images, old.can_store_embeddings, old.can_use_for_training,
                      old.anonymization_level, old.expires_at, old.policy_version);
  -- Several changes at once: what lies between is in the trail alone, and so is what this row follows from. The trigger
  -- after this one holds the row to the last of their entries.
  folded := new.version > old.version + 1;
  if decided and not folded then
    new.expiry_recorded := false;
  end if;
  -- A statement that raises the version records a decision which changes no value: a refusal, an expiry.
  if not decided and new.version = old.version and new.expiry_recorded = old.expiry_recorded then
    new.audit_id := old.audit_id;
    new.consent_granted_at := vlaapi.calendar_time(old.consent_granted_at);
    new.consent_updated_at := vlaapi.calendar_time(old.consent_updated_at);
    return new;
  end if;
  -- A writer who has made the entry names it. Anybody else gets the next version that has none.
  if not folded and (new.version <> old.version + 1 or new.audit_id is not distinct from old.audit_id) then
    new.version := vlaapi.next_consent_version(new.customer_id, old.version);
  end if;
  if new.audit_id is not distinct from old.audit_id then
    perform pg_current_xact_id();
    new.audit_id := nextval('vlaapi.customer_consent_audit_audit_id_seq');
  end if;
  -- The time of a row which was never decided on is that of its making: nothing needs to come after it.
  if new.consent_updated_at = old.consent_updated_at
    or (old.version > 0 and new.consent_updated_at < old.consent_updated_at and old.consent_updated_at < calendar_end)
  then
    new.consent_updated_at := greatest(clock_timestamp(),
      case when old.consent_updated_at < calendar_end then old.consent_updated_at + interval '1 microsecond' end);
  end if;
  if not folded then
    new.consent_granted_at := case
      when new.consent_tier = 'none' then vlaapi.calendar_time(old.consent_granted_at)
      when old.consent_tier = 'none' then new.consent_updated_at
      else coalesce(vlaapi.calendar_time(old.consent_granted_at), new.consent_updated_at)
    end;
  end if;
  return new;
end
$$;

-- Writes the entry which the writer of a change has not written: a change past the service is audited too.
-- Security definer: whoever may change a consent need not be allowed to write entries.
create or replace function vlaapi.audit_consent_change() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  folded boolean := false;
  entry record;
  change varchar(20);
begin
  if tg_op = 'DELETE' then
    if old.version > 0 then
      insert into vlaapi.customer_consent_audit
        (customer_id, action, version, previous_tier, new_tier, previous, changed_by, change_reason, timestamp,
         ip_address, user_agent)
      values
        (old.customer_id, 'erased', vlaapi.next_consent_version(old.customer_id, old.version), old.consent_tier, 'none',
         vlaapi.consent_state(old), 'sql:' || session_user, null,
         greatest(clock_timestamp(), case
           when old.consent_updated_at < timestamptz '9999-12-31 23:59:59.999999+00'
           then old.consent_updated_at + interval '1 microsecond'
         end),
         inet_client_addr(), nullif(current_setting('application_name', true), ''));
    end if;
    return null;
  end if;

  if tg_op = 'UPDATE' then
    if new.version = old.version then
      return null;
    end if;
    folded := new.version > old.version + 1;
    -- In a condition of its own: beside another one, the query is planned for every row. Entries that are not the consent's
    -- use up numbers too, and count here.
    if folded then
      if new.version - old.version <> (
        select count(*) from vlaapi.customer_consent_audit
        where customer_id = new.customer_id and version > old.version and version <= new.version
      ) then
        -- A change past the service has no entry yet, and follows on those that were set aside.
        if exists (
            select from vlaapi.customer_consent_audit where customer_id = new.customer_id and version = new.version
          )
          or new.version - old.version - 1 <> (
            select count(*) from vlaapi.customer_consent_audit aside
            join vlaapi.audit_quarantine using (audit_id)
            where customer_id = new.customer_id and version > old.version and version < new.version and foreign_version
          )
        then
          raise exception 'the version cannot go from % to % at once: the trail lacks entries of the versions after %',
            old.version, new.version, old.version
            using errcode = 'integrity_constraint_violation';
        end if;
      end if;
    end if;
  end if;

  select audit_id, action, timestamp, new_tier, current into entry
  from vlaapi.customer_consent_audit
  where customer_id = new.customer_id and version = new.version;
  if found then
    if tg_op = 'INSERT' and new.consent_tier = 'none' and entry.action = 'erased' and entry.audit_id = new.audit_id then
      return null; -- the default row of a customer who came back
    end if;
    if entry.audit_id is distinct from new.audit_id
      or entry.timestamp <> new.consent_updated_at
      or entry.new_tier <> new.consent_tier
      or (entry.current ->> 'can_store_images')::boolean is distinct from new.can_store_images
      or (entry.current ->> 'can_store_embeddings')::boolean is distinct from new.can_store_embeddings
      or (entry.current ->> 'can_use_for_training')::boolean is distinct from new.can_use_for_training
      or entry.current ->> 'anonymization_level' is distinct from new.anonymization_level
      or entry.current ->> 'policy_version' is distinct from new.policy_version
      or (entry.current ->> 'expires_at')::timestamptz is distinct from new.expires_at
      or (folded and (entry.current ->> 'consent_granted_at')::timestamptz is distinct from new.consent_granted_at)
      or (folded and (entry.action = 'expired') is distinct from new.expiry_recorded)
    then
      raise exception 'the audit entry of version % does not tell this change', new.version
        using errcode = 'integrity_constraint_violation';
    end if;
    if tg_op = 'INSERT' then
      -- The consent came after its trail, and the entries are its own.
      delete from vlaapi.audit_quarantine aside
      using vlaapi.customer_consent_audit own
      where aside.foreign_version and aside.resolved_by is null and own.audit_id = aside.audit_id
        and own.customer_id = new.customer_id and own.version <= new.version;
    end if;
    return null;
  end if;
  if new.version = 0 then
    return null;
  end if;
  if tg_op = 'INSERT' then
    perform vlaapi.next_consent_version(new.customer_id, coalesce((
      select max(version) from vlaapi.customer_consent_audit
      where customer_id = new.customer_id and action = 'erased' and version < new.version
    ), 0));
  end if;

  change := case
    when new.consent_tier = 'none' then 'withdrawn'
    when tg_op = 'INSERT' or old.consent_tier = 'none' then 'granted'
    when new.expiry_recorded and not old.expiry_recorded then 'expired'
    when (new.consent_tier, new.can_store_images, new.can_store_embeddings, new.can_use_for_training,
          new.anonymization_level)
      is not distinct from (old.consent_tier, old.can_store_images, old.can_store_embeddings,
                            old.can_use_for_training, old.anonymization_level) then 'renewed'
    else 'updated'
  end;
  insert into vlaapi.customer_consent_audit
    (customer_id, audit_id, action, version, previous_tier, new_tier, previous, current, changed_by, timestamp,
     ip_address, user_agent)
  values
    (new.customer_id, new.audit_id, change, new.version,
     case when tg_op = 'UPDATE' and old.version > 0 then old.consent_tier end, new.consent_tier,
     case when tg_op = 'UPDATE' and old.version > 0 then vlaapi.consent_state(old) end, vlaapi.consent_state(new),
     'sql:' || session_user, new.consent_updated_at,
     inet_client_addr(), nullif(current_setting('application_name', true), ''));
  return null;
end
$$;

-- The moves again, of whatever JSON an entry has: nothing is cast, so that no entry can make a sum fail. An instant is
-- compared as text, without its `Z`: of two in UTC, the earlier one comes first. What was skipped is not what was before.
create or replace view vlaapi.consent_moves as
select
  a.audit_id,
  (vlaapi.calendar_time(a.timestamp) at time zone 'UTC')::date as day,
  a.action,
  coalesce(a.previous_tier, '') as previous_tier,
  a.new_tier,
  (now_at.tier is not distinct from 'none')::int - (was_at.tier is not distinct from 'none')::int as tier_none,
  (now_at.tier is not distinct from 'basic')::int - (was_at.tier is not distinct from 'basic')::int as tier_basic,
  (now_at.tier is not distinct from 'analytics')::int - (was_at.tier is not distinct from 'analytics')::int as tier_analytics,
  (now_at.tier is not distinct from 'research')::int - (was_at.tier is not distinct from 'research')::int as tier_research,
  (now_at.tier is not distinct from 'expired')::int - (was_at.tier is not distinct from 'expired')::int as expired,
  coalesce(now_at.state -> 'can_store_images' = 'true', false)::int
    - coalesce(was_at.state -> 'can_store_images' = 'true', false)::int as images,
  coalesce(now_at.state -> 'can_store_embeddings' = 'true', false)::int
    - coalesce(was_at.state -> 'can_store_embeddings' = 'true', false)::int as embeddings,
  coalesce(now_at.state -> 'can_use_for_training' = 'true', false)::int
    - coalesce(was_at.state -> 'can_use_for_training' = 'true', false)::int as training
from vlaapi.customer_consent_audit a
cross join lateral (
  select case a.action when 'erased' then null when 'expired' then 'expired' else a.new_tier end as tier,
    case when a.action <> 'expired' then a.current end as state
) now_at
-- `offset 0`: looked up once for each entry, and not once for each column.
cross join lateral (
  select
    case
      when a.version = 1 then null
      when a.action <> 'expired' and (
        a.previous is null
        or rtrim(a.previous ->> 'expires_at', 'Z') collate "C"
          <= rtrim(vlaapi.rfc3339(vlaapi.calendar_time(a.timestamp)), 'Z') collate "C"
        or (a.previous_tier = 'none' and a.previous ->> 'consent_granted_at' is null)
      ) then (
        select jsonb_build_object(
          'tier', case b.action when 'erased' then null when 'expired' then 'expired' else b.new_tier end,
          'state', case when b.action <> 'expired' then b.current end)
        from vlaapi.customer_consent_audit b
        where b.customer_id = a.customer_id and b.version < a.version
          and not exists (
            select from vlaapi.audit_quarantine aside where aside.audit_id = b.audit_id and aside.foreign_version
          )
        order by b.version desc
        limit 1
      )
      else jsonb_build_object('tier', a.previous_tier, 'state', a.previous)
    end as before
  offset 0
) known
cross join lateral (select known.before ->> 'tier' as tier, known.before -> 'state' as state) was_at;

-- What is set aside stays so. A guard rail, as those of the entries.
create function vlaapi.guard_quarantine() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if old.resolved_by is not null and new.resolved_by is distinct from old.resolved_by
    or old.foreign_version and not new.foreign_version
    or new.audit_id <> old.audit_id
  then
    raise exception 'an entry in quarantine can be resolved, and nothing else' using errcode = 'insufficient_privilege';
  end if;
  return new;
end
$$;

create trigger audit_quarantine_guard before update on vlaapi.audit_quarantine
  for each row execute function vlaapi.guard_quarantine();

grant update (foreign_version, resolved_by, resolved_at) on vlaapi.audit_quarantine to vlaapi_app;
grant execute on function vlaapi.next_consent_version(uuid, integer), vlaapi.free_consent_version(uuid, integer),
  vlaapi.is_consent_state(jsonb) to vlaapi_app;

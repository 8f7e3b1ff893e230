-- Back to entries that are checked by nothing but their readers. No row changes; what was resolved is in quarantine again.

drop trigger audit_quarantine_guard on vlaapi.audit_quarantine;
drop function vlaapi.guard_quarantine();
drop trigger customer_consent_audit_check on vlaapi.customer_consent_audit;
drop trigger audit_events_check on vlaapi.audit_events;
drop function vlaapi.check_audit_entry();
drop function vlaapi.check_audit_event();
drop function vlaapi.is_consent_state(jsonb);

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
    -- A customer who was deleted and comes back goes on in the trail.
    select version, audit_id, timestamp, action, current into last
    from vlaapi.customer_consent_audit
    where customer_id = new.customer_id
    order by version desc
    limit 1;

    -- A row which comes after its trail (a load of both) makes no new version; the trigger after it holds it to the entry.
    if new.version = last.version and new.audit_id = last.audit_id then
      new.expiry_recorded := last.action = 'expired';
      new.consent_granted_at := vlaapi.calendar_time((last.current ->> 'consent_granted_at')::timestamptz);
      return new;
    end if;

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
    new.version := coalesce(last.version, 0) + 1;
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
  if not folded then
    new.version := old.version + 1;
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
        (old.customer_id, 'erased', old.version + 1, old.consent_tier, 'none', vlaapi.consent_state(old),
         'sql:' || session_user, null,
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
    -- In a condition of its own: beside another one, the query is planned for every row.
    if folded then
      if new.version - old.version <> (
        select count(*) from vlaapi.customer_consent_audit
        where customer_id = new.customer_id and version > old.version and version <= new.version
      ) then
        raise exception 'the version cannot go from % to % at once: the trail lacks entries of the versions after %',
          old.version, new.version, old.version
          using errcode = 'integrity_constraint_violation';
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
    return null;
  end if;
  if new.version = 0 then
    return null;
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

create or replace view vlaapi.consent_moves as
select
  a.audit_id,
  (a.timestamp at time zone 'UTC')::date as day,
  a.action,
  coalesce(a.previous_tier, '') as previous_tier,
  a.new_tier,
  (now_at.tier is not distinct from 'none')::int - (was_at.tier is not distinct from 'none')::int as tier_none,
  (now_at.tier is not distinct from 'basic')::int - (was_at.tier is not distinct from 'basic')::int as tier_basic,
  (now_at.tier is not distinct from 'analytics')::int - (was_at.tier is not distinct from 'analytics')::int as tier_analytics,
  (now_at.tier is not distinct from 'research')::int - (was_at.tier is not distinct from 'research')::int as tier_research,
  (now_at.tier is not distinct from 'expired')::int - (was_at.tier is not distinct from 'expired')::int as expired,
  coalesce((now_at.state ->> 'can_store_images')::boolean, false)::int
    - coalesce((was_at.state ->> 'can_store_images')::boolean, false)::int as images,
  coalesce((now_at.state ->> 'can_store_embeddings')::boolean, false)::int
    - coalesce((was_at.state ->> 'can_store_embeddings')::boolean, false)::int as embeddings,
  coalesce((now_at.state ->> 'can_use_for_training')::boolean, false)::int
    - coalesce((was_at.state ->> 'can_use_for_training')::boolean, false)::int as training
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
        or (a.previous ->> 'expires_at')::timestamptz <= a.timestamp
        or (a.previous_tier = 'none' and a.previous ->> 'consent_granted_at' is null)
      ) then (
        select jsonb_build_object(
          'tier', case b.action when 'erased' then null when 'expired' then 'expired' else b.new_tier end,
          'state', case when b.action <> 'expired' then b.current end)
        from vlaapi.customer_consent_audit b
        where b.customer_id = a.customer_id and b.version = a.version - 1
      )
      else jsonb_build_object('tier', a.previous_tier, 'state', a.previous)
    end as before
  offset 0
) known
cross join lateral (select known.before ->> 'tier' as tier, known.before -> 'state' as state) was_at;


drop function vlaapi.next_consent_version(uuid, integer);
drop function vlaapi.free_consent_version(uuid, integer);

create or replace function vlaapi.queue_audit_entry() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into vlaapi.audit_pending (audit_id) values (new.audit_id);
  return null;
end
$$;
alter table vlaapi.audit_pending drop column leaf_version;
alter table vlaapi.audit_events drop column leaf_version;
alter table vlaapi.customer_consent_audit drop column leaf_version;

revoke update (foreign_version, resolved_by, resolved_at) on vlaapi.audit_quarantine from vlaapi_app;
alter table vlaapi.audit_quarantine
  drop column resolved_at,
  drop column resolved_by,
  drop column foreign_version;

-- Events are sealed and stay: where something was resolved, the old rule holds for new events alone.
alter table vlaapi.audit_events drop constraint audit_events_kind_check;
do $$
begin
  if exists (select from vlaapi.audit_events where kind = 'quarantine.resolved') then
    alter table vlaapi.audit_events
      add constraint audit_events_kind_check check (kind in ('log.opened', 'pii.erased', 'pii.read')) not valid;
  else
    alter table vlaapi.audit_events
      add constraint audit_events_kind_check check (kind in ('log.opened', 'pii.erased', 'pii.read'));
  end if;
end
$$;

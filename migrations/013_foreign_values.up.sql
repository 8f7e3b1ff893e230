-- Values that others write: every value that can be stored can be read, and no table depends on a database's defaults.

-- A publication for all tables refuses updates and deletes from a table without a replica identity. Partitions inherit the primary key
-- of their table, which is their identity.
alter table vlaapi.audit_pending replica identity full;

-- PostgreSQL knows times that no calendar has, `infinity` among them: each is read as the nearest one that it has. Written
-- without `greatest` and `least`, which take null for the other value.
create or replace function vlaapi.calendar_time(moment timestamptz) returns timestamptz
  language sql immutable parallel safe
  return case
    when moment > timestamptz '9999-12-31T23:59:59.999999Z' then timestamptz '9999-12-31T23:59:59.999999Z'
    when moment < timestamptz '0001-01-01T00:00:00Z' then timestamptz '0001-01-01T00:00:00Z'
    else moment
  end;

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

-- Brings the named columns into the calendar.
create function vlaapi.bring_into_calendar() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  moved jsonb;
begin
  select jsonb_object_agg(name, vlaapi.calendar_time((to_jsonb(new) ->> name)::timestamptz)) into moved
  from unnest(tg_argv) name;
  return jsonb_populate_record(new, moved);
end
$$;

create trigger customers_calendar before insert or update on vlaapi.customers
  for each row when (
    new.created_at <> vlaapi.calendar_time(new.created_at)
    or new.updated_at <> vlaapi.calendar_time(new.updated_at)
  ) execute function vlaapi.bring_into_calendar('created_at', 'updated_at');
create trigger api_keys_calendar before insert or update on vlaapi.api_keys
  for each row when (
    new.created_at <> vlaapi.calendar_time(new.created_at)
    or new.last_used_at <> vlaapi.calendar_time(new.last_used_at)
    or new.expires_at <> vlaapi.calendar_time(new.expires_at)
  ) execute function vlaapi.bring_into_calendar('created_at', 'last_used_at', 'expires_at');

-- Rows from before. A consent whose end moves gets a version and an entry; its other times were never more than read.
update vlaapi.customer_data_consent set expires_at = vlaapi.calendar_time(expires_at)
where expires_at <> vlaapi.calendar_time(expires_at);
alter table vlaapi.customer_data_consent disable trigger user;
update vlaapi.customer_data_consent
set consent_granted_at = vlaapi.calendar_time(consent_granted_at),
    consent_updated_at = vlaapi.calendar_time(consent_updated_at)
where consent_granted_at <> vlaapi.calendar_time(consent_granted_at)
  or consent_updated_at <> vlaapi.calendar_time(consent_updated_at);
alter table vlaapi.customer_data_consent enable trigger user;
-- The service makes no link that ends outside the calendar. Brought into it, such a link might end before it began.
delete from vlaapi.consent_links
where created_at <> vlaapi.calendar_time(created_at) or expires_at <> vlaapi.calendar_time(expires_at);
update vlaapi.api_keys set scopes = array(select scope from unnest(scopes) scope where scope is not null)
where case when array_ndims(scopes) = 1 then array_position(scopes, null) is not null else cardinality(scopes) > 0 end;
update vlaapi.audit_logs set verifier_keys = array(select key from unnest(verifier_keys) key where key is not null)
where case when array_ndims(verifier_keys) = 1 then array_position(verifier_keys, null) is not null
  else cardinality(verifier_keys) > 0 end;

-- Constraints hold where triggers do not fire: in sessions that replicate. Operators alone, no function that a role might
-- not be allowed to call. The trail and the events are not among them: an entry cannot be changed, and the personal fields
-- of one from before must stay erasable.
do $$
declare
  column_of record;
begin
  for column_of in
    select table_name, column_name
    from information_schema.columns
    where table_schema = 'vlaapi' and data_type = 'timestamp with time zone' and table_name in (
      'customers', 'api_keys', 'customer_data_consent', 'idempotent_answers', 'console_sessions', 'consent_link_keys',
      'consent_links', 'audit_pending', 'audit_logs', 'audit_writer_keys', 'audit_checkpoints', 'audit_cosignatures',
      'audit_quarantine', 'audit_erasures', 'audit_verifications')
    order by table_name, ordinal_position
  loop
    execute format('update vlaapi.%1$I set %2$I = vlaapi.calendar_time(%2$I) where %2$I <> vlaapi.calendar_time(%2$I)',
      column_of.table_name, column_of.column_name);
    execute format(
      'alter table vlaapi.%1$I add constraint %3$I check (%2$I between timestamptz %4$L and timestamptz %5$L)',
      column_of.table_name, column_of.column_name,
      column_of.table_name || '_' || column_of.column_name || '_calendar_check',
      '0001-01-01 00:00:00+00', '9999-12-31 23:59:59.999999+00');
  end loop;
end
$$;
alter table vlaapi.api_keys add constraint api_keys_scopes_check check (
  case array_ndims(scopes) when 1 then array_position(scopes, null) is null else cardinality(scopes) = 0 end
);
alter table vlaapi.audit_logs add constraint audit_logs_verifier_keys_check check (
  case array_ndims(verifier_keys) when 1 then array_position(verifier_keys, null) is null
    else cardinality(verifier_keys) = 0 end
);

-- An upsert draws an id even where it updates: four bytes do not last.
alter table vlaapi.customer_data_consent alter column consent_id type bigint;
alter sequence vlaapi.customer_data_consent_consent_id_seq as bigint;

-- By name, since a database may give PUBLIC nothing. A trigger's function needs no grant; the others are called with the
-- rights of the role that writes or reads.
grant execute on function vlaapi.calendar_time(timestamptz), vlaapi.random_salt(), vlaapi.rfc3339(timestamptz),
  vlaapi.consent_state(vlaapi.customer_data_consent) to vlaapi_app;

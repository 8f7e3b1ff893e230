-- Back to what was there before. Times that were brought into the calendar stay there.

revoke execute on function vlaapi.calendar_time(timestamptz), vlaapi.random_salt(), vlaapi.rfc3339(timestamptz),
  vlaapi.consent_state(vlaapi.customer_data_consent) from vlaapi_app;

alter table vlaapi.audit_pending replica identity default;

-- Refused where an id has outgrown it.
alter sequence vlaapi.customer_data_consent_consent_id_seq as integer;
alter table vlaapi.customer_data_consent alter column consent_id type integer;

alter table vlaapi.audit_logs drop constraint audit_logs_verifier_keys_check;
alter table vlaapi.api_keys drop constraint api_keys_scopes_check;
do $$
declare
  held record;
begin
  for held in
    select conrelid::regclass as of_table, conname
    from pg_constraint
    where connamespace = 'vlaapi'::regnamespace and conname ~ '_calendar_check$'
  loop
    execute format('alter table %s drop constraint %I', held.of_table, held.conname);
  end loop;
end
$$;

drop trigger customers_calendar on vlaapi.customers;
drop trigger api_keys_calendar on vlaapi.api_keys;
drop function vlaapi.bring_into_calendar();

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
         greatest(clock_timestamp(), old.consent_updated_at + interval '1 microsecond'),
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

-- Numbers every change, whoever makes it: the version goes up by one, or by as many as have entries; the time never back.
create or replace function vlaapi.number_consent_change() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  last record;
  decided boolean;
  folded boolean;
begin
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
      new.consent_granted_at := (last.current ->> 'consent_granted_at')::timestamptz;
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
      new.consent_updated_at := coalesce(last.timestamp, new.consent_updated_at);
      return new;
    end if;
    new.version := coalesce(last.version, 0) + 1;
    if new.audit_id is null then
      perform pg_current_xact_id();
      new.audit_id := nextval('vlaapi.customer_consent_audit_audit_id_seq');
    end if;
    new.consent_updated_at := greatest(new.consent_updated_at, last.timestamp + interval '1 microsecond');
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
    new.consent_granted_at := old.consent_granted_at;
    new.consent_updated_at := old.consent_updated_at;
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
    or (old.version > 0 and new.consent_updated_at < old.consent_updated_at)
  then
    new.consent_updated_at := greatest(clock_timestamp(), old.consent_updated_at + interval '1 microsecond');
  end if;
  if not folded then
    new.consent_granted_at := case
      when new.consent_tier = 'none' then old.consent_granted_at
      when old.consent_tier = 'none' then new.consent_updated_at
      else coalesce(old.consent_granted_at, new.consent_updated_at)
    end;
  end if;
  return new;
end
$$;

create or replace function vlaapi.calendar_time(moment timestamptz) returns timestamptz
  language sql immutable parallel safe
  return greatest(least(moment, timestamptz '9999-12-31T23:59:59.999999Z'), timestamptz '0001-01-01T00:00:00Z');

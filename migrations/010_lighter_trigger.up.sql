-- The same as before, at less cost for each change: nothing is planned, read or put together that only few changes need.

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

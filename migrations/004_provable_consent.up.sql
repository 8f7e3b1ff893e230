-- Every change of a consent has a version and an audit entry, whoever makes it; no entry can be changed or removed.

do $$
begin
  if not exists (select from pg_roles where rolname = 'vlaapi_eraser') then
    create role vlaapi_eraser nologin;
  end if;
exception
  when duplicate_object or unique_violation then null; -- another database of the cluster was faster
end
$$;

-- The trail: full before and after, a gap-free version per customer, and no tie to the customer's row.

alter table vlaapi.customer_consent_audit
  drop constraint customer_consent_audit_customer_id_fkey,
  drop constraint customer_consent_audit_pkey,
  add constraint customer_consent_audit_pkey primary key (customer_id, audit_id),
  add column action varchar(20),
  add column version integer,
  add column previous jsonb,
  add column current jsonb,
  add column on_behalf_of varchar(255),
  add column request_id varchar(128);

-- Entries from before the trail tell the tiers alone.
update vlaapi.customer_consent_audit a
set version = numbered.version,
    action = case
      when a.new_tier = 'none' then 'withdrawn'
      when coalesce(a.previous_tier, 'none') = 'none' then 'granted'
      else 'updated'
    end
from (
  select customer_id, audit_id, row_number() over (partition by customer_id order by audit_id) as version
  from vlaapi.customer_consent_audit
) numbered
where numbered.customer_id = a.customer_id and numbered.audit_id = a.audit_id;

alter table vlaapi.customer_consent_audit
  alter column action set not null,
  alter column version set not null,
  add constraint customer_consent_audit_version_key unique (customer_id, version),
  add constraint customer_consent_audit_version_check check (version >= 1),
  add constraint customer_consent_audit_action_check
    check (action in ('adopted', 'granted', 'updated', 'renewed', 'withdrawn', 'expired', 'erased')),
  add constraint customer_consent_audit_tiers_check check (
    new_tier in ('none', 'basic', 'analytics', 'research')
    and previous_tier in ('none', 'basic', 'analytics', 'research')
  ) not valid;

-- One index for each filter, with audit_id behind it: the order in which pages are walked.
create index customer_consent_audit_audit_id_idx on vlaapi.customer_consent_audit (audit_id);
create index customer_consent_audit_time_idx on vlaapi.customer_consent_audit (timestamp, audit_id);
create index customer_consent_audit_action_idx on vlaapi.customer_consent_audit (action, audit_id);
create index customer_consent_audit_previous_tier_idx on vlaapi.customer_consent_audit (previous_tier, audit_id);
create index customer_consent_audit_new_tier_idx on vlaapi.customer_consent_audit (new_tier, audit_id);
create index customer_consent_audit_changed_by_idx on vlaapi.customer_consent_audit (changed_by, audit_id);
create index customer_consent_audit_ip_address_idx on vlaapi.customer_consent_audit (ip_address, audit_id)
  where ip_address is not null;
create index customer_consent_audit_request_id_idx on vlaapi.customer_consent_audit (request_id, audit_id)
  where request_id is not null;

-- The consent: one row per customer, its version, and the entry which made that version.

alter table vlaapi.customer_data_consent
  drop constraint customer_data_consent_pkey,
  add constraint customer_data_consent_pkey primary key (customer_id),
  drop constraint customer_data_consent_customer_id_key,
  add column policy_version varchar(64),
  add column version integer not null default 0,
  add column audit_id bigint,
  -- Whether the `expired` entry of the current `expires_at` is written.
  add column expiry_recorded boolean not null default false,
  add constraint customer_data_consent_version_check check (version >= 0);

create index customer_data_consent_updated_at_idx on vlaapi.customer_data_consent (consent_updated_at);
create index customer_data_consent_expiry_due_idx on vlaapi.customer_data_consent (expires_at)
  where expires_at is not null and not expiry_recorded;

-- A time as the API writes it, whatever the session's time zone.
create function vlaapi.rfc3339(moment timestamptz) returns text
  language sql stable parallel safe
  return to_char(moment at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');

-- What an entry tells of a consent, before or after.
create function vlaapi.consent_state(consent vlaapi.customer_data_consent) returns jsonb
  language sql stable parallel safe
  return jsonb_build_object(
    'consent_tier', consent.consent_tier,
    'can_store_images', consent.can_store_images,
    'can_store_embeddings', consent.can_store_embeddings,
    'can_use_for_training', consent.can_use_for_training,
    'anonymization_level', consent.anonymization_level,
    'policy_version', consent.policy_version,
    'expires_at', vlaapi.rfc3339(consent.expires_at),
    'consent_granted_at', vlaapi.rfc3339(consent.consent_granted_at)
  );

-- A consent which stands without a trail is adopted as it was found. The default rows of 003 are `never_given`.
alter table vlaapi.customer_data_consent disable trigger customer_data_consent_touch;

with found as (
  select c as consent,
    coalesce((select max(a.version) from vlaapi.customer_consent_audit a where a.customer_id = c.customer_id), 0) as versions,
    (select max(a.timestamp) from vlaapi.customer_consent_audit a where a.customer_id = c.customer_id) as last_entry
  from vlaapi.customer_data_consent c
), entries as (
  insert into vlaapi.customer_consent_audit
    (customer_id, action, version, new_tier, current, changed_by, change_reason, timestamp)
  select (consent).customer_id, 'adopted', versions + 1, (consent).consent_tier, vlaapi.consent_state(consent),
    'migration:004',
    'found when the audit trail began; last updated ' || vlaapi.rfc3339((consent).consent_updated_at),
    greatest(now(), last_entry + interval '1 microsecond')
  from found
  where versions > 0
    or (consent).consent_tier <> 'none' or (consent).can_store_images or (consent).can_store_embeddings
    or (consent).can_use_for_training or (consent).anonymization_level <> 'full' or (consent).expires_at is not null
  returning customer_id, audit_id, version, timestamp
)
update vlaapi.customer_data_consent c
set version = entries.version, audit_id = entries.audit_id, consent_updated_at = entries.timestamp
from entries
where entries.customer_id = c.customer_id;

-- Rows which break a rule of their tier are narrowed to the most private reading that fits it, never widened.
with narrowed as (
  select c.customer_id, c as consent,
    c.can_store_images and c.consent_tier = 'research' as images,
    c.can_store_embeddings and c.consent_tier in ('analytics', 'research') as embeddings,
    c.can_use_for_training and c.consent_tier = 'research' and (c.can_store_images or c.can_store_embeddings) as training,
    case
      when c.consent_tier = 'none' then 'full'
      when c.consent_tier <> 'research' and c.anonymization_level = 'none' then 'full'
      else c.anonymization_level
    end as level
  from vlaapi.customer_data_consent c
), entries as (
  insert into vlaapi.customer_consent_audit
    (customer_id, action, version, previous_tier, new_tier, previous, current, changed_by, change_reason, timestamp)
  select customer_id, 'updated', (consent).version + 1, (consent).consent_tier, (consent).consent_tier,
    vlaapi.consent_state(consent),
    vlaapi.consent_state(consent) || jsonb_build_object(
      'can_store_images', images, 'can_store_embeddings', embeddings,
      'can_use_for_training', training, 'anonymization_level', level),
    'migration:004', 'narrowed to what the tier allows',
    (consent).consent_updated_at + interval '1 microsecond'
  from narrowed
  where ((consent).can_store_images, (consent).can_store_embeddings, (consent).can_use_for_training,
         (consent).anonymization_level) is distinct from (images, embeddings, training, level::varchar)
  returning customer_id, audit_id, version, timestamp, current
)
update vlaapi.customer_data_consent c
set version = entries.version,
    audit_id = entries.audit_id,
    consent_updated_at = entries.timestamp,
    can_store_images = (entries.current ->> 'can_store_images')::boolean,
    can_store_embeddings = (entries.current ->> 'can_store_embeddings')::boolean,
    can_use_for_training = (entries.current ->> 'can_use_for_training')::boolean,
    anonymization_level = entries.current ->> 'anonymization_level'
from entries
where entries.customer_id = c.customer_id;

alter table vlaapi.customer_data_consent
  add constraint customer_data_consent_tier_rules_check check (
    case consent_tier
      when 'none' then
        not can_store_images and not can_store_embeddings and not can_use_for_training and anonymization_level = 'full'
      when 'basic' then
        not can_store_images and not can_store_embeddings and not can_use_for_training and anonymization_level <> 'none'
      when 'analytics' then
        not can_store_images and not can_use_for_training and anonymization_level <> 'none'
      when 'research' then
        not can_use_for_training or can_store_images or can_store_embeddings
    end
  );

drop trigger customer_data_consent_touch on vlaapi.customer_data_consent;
drop function vlaapi.touch_consent();

-- Numbers every change, whoever makes it: the version goes up by one, the time never back.
create function vlaapi.number_consent_change() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  last record;
  decided boolean;
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
    new.audit_id := coalesce(new.audit_id, nextval('vlaapi.customer_consent_audit_audit_id_seq'));
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
  if decided then
    new.expiry_recorded := false;
  end if;
  -- A statement that raises the version records a decision which changes no value: a refusal, an expiry.
  if not decided and new.version = old.version and new.expiry_recorded = old.expiry_recorded then
    new.audit_id := old.audit_id;
    new.consent_granted_at := old.consent_granted_at;
    new.consent_updated_at := old.consent_updated_at;
    return new;
  end if;
  new.version := old.version + 1;
  if new.audit_id is not distinct from old.audit_id then
    new.audit_id := nextval('vlaapi.customer_consent_audit_audit_id_seq');
  end if;
  -- The time of a row which was never decided on is that of its making: nothing needs to come after it.
  if new.consent_updated_at = old.consent_updated_at
    or (old.version > 0 and new.consent_updated_at < old.consent_updated_at)
  then
    new.consent_updated_at := greatest(clock_timestamp(), old.consent_updated_at + interval '1 microsecond');
  end if;
  new.consent_granted_at := case
    when new.consent_tier = 'none' then old.consent_granted_at
    when old.consent_tier = 'none' then new.consent_updated_at
    else coalesce(old.consent_granted_at, new.consent_updated_at)
  end;
  return new;
end
$$;

create trigger customer_data_consent_number before insert or update on vlaapi.customer_data_consent
  for each row execute function vlaapi.number_consent_change();

-- Writes the entry which the writer of a change has not written: a change past the service is audited too.
-- Security definer: whoever may change a consent need not be allowed to write entries.
create function vlaapi.audit_consent_change() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  entry record;
  change varchar(20);
  before jsonb;
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
    before := vlaapi.consent_state(old);
  end if;

  select * into entry
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
     case when tg_op = 'UPDATE' and old.version > 0 then before end, vlaapi.consent_state(new),
     'sql:' || session_user, new.consent_updated_at,
     inet_client_addr(), nullif(current_setting('application_name', true), ''));
  return null;
end
$$;

create trigger customer_data_consent_audit after insert or update or delete on vlaapi.customer_data_consent
  for each row execute function vlaapi.audit_consent_change();

create function vlaapi.refuse_truncate() returns trigger language plpgsql as $$
begin
  raise exception '% cannot be truncated: every change needs its audit entry', tg_table_name
    using errcode = 'insufficient_privilege';
end
$$;

create trigger customer_data_consent_truncate before truncate on vlaapi.customer_data_consent
  for each statement execute function vlaapi.refuse_truncate();
create trigger customer_consent_audit_truncate before truncate on vlaapi.customer_consent_audit
  for each statement execute function vlaapi.refuse_truncate();

-- Personal fields can go from a value to null, through the eraser's role; nothing else can change.
create function vlaapi.guard_audit_entry() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  kept vlaapi.customer_consent_audit;
begin
  if tg_op = 'DELETE' then
    raise exception 'audit entries cannot be deleted' using errcode = 'insufficient_privilege';
  end if;
  if current_user <> 'vlaapi_eraser' then
    raise exception 'audit entries cannot be changed; only role vlaapi_eraser may erase personal fields'
      using errcode = 'insufficient_privilege';
  end if;
  kept := old;
  if new.changed_by is null then kept.changed_by := null; end if;
  if new.on_behalf_of is null then kept.on_behalf_of := null; end if;
  if new.change_reason is null then kept.change_reason := null; end if;
  if new.ip_address is null then kept.ip_address := null; end if;
  if new.user_agent is null then kept.user_agent := null; end if;
  if new is distinct from kept then
    raise exception 'of an audit entry only changed_by, on_behalf_of, change_reason, ip_address and user_agent can be erased, to null'
      using errcode = 'insufficient_privilege';
  end if;
  return new;
end
$$;

create trigger customer_consent_audit_guard before update or delete on vlaapi.customer_consent_audit
  for each row execute function vlaapi.guard_audit_entry();

revoke update, delete on vlaapi.customer_consent_audit from vlaapi_app;
grant usage on schema vlaapi to vlaapi_eraser;
grant select on vlaapi.customer_consent_audit to vlaapi_eraser;
grant update (changed_by, on_behalf_of, change_reason, ip_address, user_agent)
  on vlaapi.customer_consent_audit to vlaapi_eraser;

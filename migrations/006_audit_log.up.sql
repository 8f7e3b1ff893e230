-- The audit log: entries are vouched for when they are written, and sealed into a Merkle tree a moment later.
--
-- Personal fields are in the tree as commitments alone: SHA-256 over value and salt. Once value and salt are gone, what
-- is left tells nothing, and every proof stays good.

create function vlaapi.random_salt() returns bytea
  language sql volatile parallel safe
  -- gen_random_uuid draws from the strong source; two of them give 244 random bits, of which 128 are kept.
  return substring(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())) from 1 for 16);

-- PostgreSQL knows times that no calendar has, `infinity` among them: each is read as the nearest one that it has.
create function vlaapi.calendar_time(moment timestamptz) returns timestamptz
  language sql immutable parallel safe
  return greatest(least(moment, timestamptz '9999-12-31T23:59:59.999999Z'), timestamptz '0001-01-01T00:00:00Z');

alter table vlaapi.customer_consent_audit
  add column changed_by_salt bytea,
  add column on_behalf_of_salt bytea,
  add column change_reason_salt bytea,
  add column ip_address_salt bytea,
  add column user_agent_salt bytea,
  -- The service's own word for the entry, with a key which the database does not hold. Without it, the entry came from
  -- elsewhere: a statement past the service, a migration, or from before this log.
  add column mac bytea;

-- What is not a change of one customer's consent, and stands in the log all the same. Ids are drawn from one sequence
-- with those of the entries, so that one number names one leaf.
create table vlaapi.audit_events (
  audit_id bigint not null default nextval('vlaapi.customer_consent_audit_audit_id_seq'),
  kind varchar(40) not null,
  customer_id uuid,
  details jsonb not null,
  changed_by varchar(255),
  on_behalf_of varchar(255),
  change_reason text,
  ip_address inet,
  user_agent text,
  request_id varchar(128),
  timestamp timestamptz not null,
  changed_by_salt bytea,
  on_behalf_of_salt bytea,
  change_reason_salt bytea,
  ip_address_salt bytea,
  user_agent_salt bytea,
  mac bytea,
  constraint audit_events_pkey primary key (audit_id),
  constraint audit_events_kind_check check (kind in ('log.opened', 'pii.erased'))
);

create index audit_events_customer_idx on vlaapi.audit_events (customer_id, audit_id);
create index audit_events_time_idx on vlaapi.audit_events (timestamp, audit_id);

-- The sealer's queue: a heap without an index, since it is written with every entry and read as a whole.
create table vlaapi.audit_pending (
  audit_id bigint not null,
  queued_at timestamptz not null default clock_timestamp()
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, vacuum_truncate = off);

-- Entries which were there before are adopted: salted, queued, and without a mac for good.
alter table vlaapi.customer_consent_audit disable trigger customer_consent_audit_guard;
update vlaapi.customer_consent_audit
set changed_by_salt = case when changed_by is not null then vlaapi.random_salt() end,
    on_behalf_of_salt = case when on_behalf_of is not null then vlaapi.random_salt() end,
    change_reason_salt = case when change_reason is not null then vlaapi.random_salt() end,
    ip_address_salt = case when ip_address is not null then vlaapi.random_salt() end,
    user_agent_salt = case when user_agent is not null then vlaapi.random_salt() end;
alter table vlaapi.customer_consent_audit enable trigger customer_consent_audit_guard;
insert into vlaapi.audit_pending (audit_id)
select audit_id from vlaapi.customer_consent_audit order by audit_id;

alter table vlaapi.customer_consent_audit
  add constraint customer_consent_audit_salts_check check (
    (changed_by is null) = (changed_by_salt is null) and (on_behalf_of is null) = (on_behalf_of_salt is null)
    and (change_reason is null) = (change_reason_salt is null) and (ip_address is null) = (ip_address_salt is null)
    and (user_agent is null) = (user_agent_salt is null)
  );
alter table vlaapi.audit_events
  add constraint audit_events_salts_check check (
    (changed_by is null) = (changed_by_salt is null) and (on_behalf_of is null) = (on_behalf_of_salt is null)
    and (change_reason is null) = (change_reason_salt is null) and (ip_address is null) = (ip_address_salt is null)
    and (user_agent is null) = (user_agent_salt is null)
  );

-- Salts and queues what the service has not: it does both itself, with the mac, in the statement that writes the entry.
create function vlaapi.salt_audit_entry() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if new.changed_by is not null and new.changed_by_salt is null then new.changed_by_salt := vlaapi.random_salt(); end if;
  if new.on_behalf_of is not null and new.on_behalf_of_salt is null then new.on_behalf_of_salt := vlaapi.random_salt(); end if;
  if new.change_reason is not null and new.change_reason_salt is null then new.change_reason_salt := vlaapi.random_salt(); end if;
  if new.ip_address is not null and new.ip_address_salt is null then new.ip_address_salt := vlaapi.random_salt(); end if;
  if new.user_agent is not null and new.user_agent_salt is null then new.user_agent_salt := vlaapi.random_salt(); end if;
  return new;
end
$$;

-- Security definer: whoever may add an entry need not be allowed to write to the queue.
create function vlaapi.queue_audit_entry() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into vlaapi.audit_pending (audit_id) values (new.audit_id);
  return null;
end
$$;

create trigger customer_consent_audit_salt before insert on vlaapi.customer_consent_audit
  for each row when (new.mac is null) execute function vlaapi.salt_audit_entry();
create trigger customer_consent_audit_queue after insert on vlaapi.customer_consent_audit
  for each row when (new.mac is null) execute function vlaapi.queue_audit_entry();

-- The logs, of which one is open. Each has a tree of its own; a new one is opened when an old one cannot go on.
create table vlaapi.audit_logs (
  log_id integer not null,
  origin varchar(255) not null,
  tree_size bigint not null default 0,
  -- Which keys sign: to tell a replica that it has another one. Verification trusts keys from outside alone.
  verifier_keys text[] not null,
  opened_at timestamptz not null,
  closed_at timestamptz,
  -- Since when, and why, this log is known to contradict a checkpoint which was published.
  forked_at timestamptz,
  fork text,
  constraint audit_logs_pkey primary key (log_id),
  constraint audit_logs_origin_key unique (origin),
  constraint audit_logs_tree_size_check check (tree_size >= 0)
);
create unique index audit_logs_open_idx on vlaapi.audit_logs ((true)) where closed_at is null;

-- Fingerprints of the writers' keys, for the same purpose.
create table vlaapi.audit_writer_keys (
  fingerprint bytea not null,
  added_at timestamptz not null default now(),
  constraint audit_writer_keys_pkey primary key (fingerprint)
);

create table vlaapi.audit_leaves (
  log_id integer not null,
  leaf_index bigint not null,
  audit_id bigint not null,
  leaf_hash bytea not null,
  leaf bytea not null,
  constraint audit_leaves_pkey primary key (log_id, leaf_index),
  constraint audit_leaves_audit_id_key unique (audit_id)
);

-- The hashes of full tiles: of level 1 over 256 leaves, of level 2 over 65536, and so on. Level 0 is in the leaves.
create table vlaapi.audit_nodes (
  log_id integer not null,
  level smallint not null,
  node_index bigint not null,
  hash bytea not null,
  constraint audit_nodes_pkey primary key (log_id, level, node_index)
);

create table vlaapi.audit_checkpoints (
  log_id integer not null,
  tree_size bigint not null,
  note text not null,
  -- When the tree was last seen at this size and signed.
  signed_at timestamptz not null,
  constraint audit_checkpoints_pkey primary key (log_id, tree_size)
);

create table vlaapi.audit_cosignatures (
  log_id integer not null,
  tree_size bigint not null,
  witness varchar(255) not null,
  signature text not null,
  added_at timestamptz not null,
  constraint audit_cosignatures_pkey primary key (log_id, tree_size, witness)
);

-- Entries which cannot be sealed: the service's own word for them does not fit them, or they are gone.
create table vlaapi.audit_quarantine (
  audit_id bigint not null,
  reason text not null,
  found_at timestamptz not null,
  constraint audit_quarantine_pkey primary key (audit_id)
);

-- Erasures which are logged, and whether what they name is gone.
create table vlaapi.audit_erasures (
  audit_id bigint not null,
  done_at timestamptz,
  constraint audit_erasures_pkey primary key (audit_id)
);
create index audit_erasures_undone_idx on vlaapi.audit_erasures (audit_id) where done_at is null;

create table vlaapi.audit_verifications (
  verification_id bigint generated always as identity,
  log_id integer not null,
  tree_size bigint not null,
  started_at timestamptz not null,
  took_ms bigint not null,
  result varchar(20) not null,
  findings jsonb not null,
  constraint audit_verifications_pkey primary key (verification_id),
  constraint audit_verifications_result_check check (result in ('clean', 'tampering', 'incomplete'))
);

-- Personal fields can go from a value to null, together with their salt, through the eraser's role. Nothing else can
-- change, and nothing can go. A guard rail: whoever owns the tables can take it away, and verification finds what was done.
create or replace function vlaapi.guard_audit_entry() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  before jsonb;
  after jsonb;
  field text;
begin
  if tg_op = 'DELETE' then
    raise exception 'audit entries cannot be deleted' using errcode = 'insufficient_privilege';
  end if;
  if current_user <> 'vlaapi_eraser' then
    raise exception 'audit entries cannot be changed; only role vlaapi_eraser may erase personal fields'
      using errcode = 'insufficient_privilege';
  end if;
  before := to_jsonb(old);
  after := to_jsonb(new);
  foreach field in array array['changed_by', 'on_behalf_of', 'change_reason', 'ip_address', 'user_agent'] loop
    if after ->> field is null and after ->> (field || '_salt') is null then
      before := before - field - (field || '_salt');
      after := after - field - (field || '_salt');
    end if;
  end loop;
  if after is distinct from before then
    raise exception 'of an audit entry only changed_by, on_behalf_of, change_reason, ip_address and user_agent can be erased, each with its salt, to null'
      using errcode = 'insufficient_privilege';
  end if;
  return new;
end
$$;

create trigger audit_events_guard before update or delete on vlaapi.audit_events
  for each row execute function vlaapi.guard_audit_entry();
create trigger audit_events_truncate before truncate on vlaapi.audit_events
  for each statement execute function vlaapi.refuse_truncate();

create function vlaapi.refuse_rewriting() returns trigger language plpgsql as $$
begin
  raise exception '% is append-only', tg_table_name using errcode = 'insufficient_privilege';
end
$$;

create trigger audit_leaves_guard before update or delete on vlaapi.audit_leaves
  for each row execute function vlaapi.refuse_rewriting();
create trigger audit_leaves_truncate before truncate on vlaapi.audit_leaves
  for each statement execute function vlaapi.refuse_rewriting();
create trigger audit_nodes_guard before update or delete on vlaapi.audit_nodes
  for each row execute function vlaapi.refuse_rewriting();
create trigger audit_nodes_truncate before truncate on vlaapi.audit_nodes
  for each statement execute function vlaapi.refuse_rewriting();
create trigger audit_checkpoints_truncate before truncate on vlaapi.audit_checkpoints
  for each statement execute function vlaapi.refuse_rewriting();

grant select, insert on vlaapi.audit_events, vlaapi.audit_leaves, vlaapi.audit_nodes, vlaapi.audit_quarantine,
  vlaapi.audit_writer_keys, vlaapi.audit_verifications to vlaapi_app;
grant select, insert, delete on vlaapi.audit_pending to vlaapi_app;
grant select, insert, update on vlaapi.audit_logs, vlaapi.audit_erasures, vlaapi.audit_cosignatures to vlaapi_app;
grant select, insert on vlaapi.audit_checkpoints to vlaapi_app;
grant update (signed_at) on vlaapi.audit_checkpoints to vlaapi_app;
grant select on vlaapi.audit_events to vlaapi_eraser;
grant update (changed_by, on_behalf_of, change_reason, ip_address, user_agent,
              changed_by_salt, on_behalf_of_salt, change_reason_salt, ip_address_salt, user_agent_salt)
  on vlaapi.audit_events, vlaapi.customer_consent_audit to vlaapi_eraser;

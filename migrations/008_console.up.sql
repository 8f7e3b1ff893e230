-- The console: who is signed in, who looked at personal data, and counts by day, so that no page counts the trail.

-- Reading personal fields is an event of the log as erasing them is.
alter table vlaapi.audit_events
  drop constraint audit_events_kind_check,
  add constraint audit_events_kind_check check (kind in ('log.opened', 'pii.erased', 'pii.read'));

create table vlaapi.console_sessions (
  -- SHA-256 of what the cookie holds.
  session_hash bytea not null,
  key_id uuid not null,
  started_at timestamptz not null,
  seen_at timestamptz not null,
  constraint console_sessions_pkey primary key (session_hash),
  constraint console_sessions_key_id_fkey foreign key (key_id) references vlaapi.api_keys (key_id) on delete cascade
);
create index console_sessions_key_id_idx on vlaapi.console_sessions (key_id);
create index console_sessions_started_at_idx on vlaapi.console_sessions (started_at);

-- What each entry changes in the number of customers at a tier, and of those who allow something: an expired consent is at
-- no tier, and allows nothing, and whoever is erased leaves the count. What was before is in the entry itself. The entry
-- before it is only looked up where that does not tell it: of entries from before the trail, of customers who come back, and
-- where the end of the consent had come, which may be recorded or not.
create view vlaapi.consent_moves as
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

-- The sum of the moves of every sealed entry, by the entry's day (UTC). The sealer adds to it in the transaction that seals.
create table vlaapi.consent_days (
  day date not null,
  action varchar(20) not null,
  -- Empty where there was nothing before.
  previous_tier varchar(20) not null,
  new_tier varchar(20) not null,
  entries bigint not null,
  tier_none bigint not null,
  tier_basic bigint not null,
  tier_analytics bigint not null,
  tier_research bigint not null,
  expired bigint not null,
  images bigint not null,
  embeddings bigint not null,
  training bigint not null,
  constraint consent_days_pkey primary key (day, action, previous_tier, new_tier)
);

insert into vlaapi.consent_days
select day, action, previous_tier, new_tier, count(*), sum(tier_none), sum(tier_basic), sum(tier_analytics),
  sum(tier_research), sum(expired), sum(images), sum(embeddings), sum(training)
from vlaapi.consent_moves
where audit_id in (select audit_id from vlaapi.audit_leaves)
group by day, action, previous_tier, new_tier;

-- Customers by tier, in the order of their ids: a list of one tier is not looked for among all the others.
create index customer_data_consent_tier_customer_idx on vlaapi.customer_data_consent (consent_tier, customer_id);
drop index vlaapi.customer_data_consent_tier_idx;

-- Consents by their ends: what ends on which day is counted, and listed in order, from the index alone.
drop index vlaapi.customer_data_consent_expires_at_idx;
create index customer_data_consent_expires_at_idx on vlaapi.customer_data_consent (expires_at, customer_id)
  include (consent_tier) where expires_at is not null;

-- The trail is walked in the order of time: what a filter finds in a window of time long ago is not looked for in all that
-- came since.
drop index vlaapi.customer_consent_audit_action_idx;
create index customer_consent_audit_action_idx on vlaapi.customer_consent_audit (action, timestamp, audit_id);
drop index vlaapi.customer_consent_audit_previous_tier_idx;
create index customer_consent_audit_previous_tier_idx on vlaapi.customer_consent_audit (previous_tier, timestamp, audit_id);
drop index vlaapi.customer_consent_audit_new_tier_idx;
create index customer_consent_audit_new_tier_idx on vlaapi.customer_consent_audit (new_tier, timestamp, audit_id);
drop index vlaapi.customer_consent_audit_changed_by_idx;
create index customer_consent_audit_changed_by_idx on vlaapi.customer_consent_audit (changed_by, timestamp, audit_id);
drop index vlaapi.customer_consent_audit_ip_address_idx;
create index customer_consent_audit_ip_address_idx on vlaapi.customer_consent_audit (ip_address, timestamp, audit_id)
  where ip_address is not null;

-- Whoever asks who looked passes no erasures.
create index audit_events_kind_idx on vlaapi.audit_events (kind, audit_id);

grant select, insert, update, delete on vlaapi.console_sessions to vlaapi_app;
grant select on vlaapi.consent_moves to vlaapi_app;
grant select, insert, update on vlaapi.consent_days to vlaapi_app;

-- transaction.sql as one statement.
\set slot random(0, :slots - 1)
\set n :slot * :stride + :client_id * :own
\set policy random(1, 1000000000000000)
\set even random(0, 1)
with locked as materialized (
  select customer_id, consent_tier, version, consent_updated_at
  from vlaapi.customer_data_consent where customer_id = bench_customer(:n) for update
), entry as (
  insert into vlaapi.customer_consent_audit
    (customer_id, action, version, previous_tier, new_tier, previous, current, changed_by, on_behalf_of, change_reason,
     timestamp, ip_address, user_agent, request_id, changed_by_salt, on_behalf_of_salt, change_reason_salt,
     ip_address_salt, user_agent_salt, mac)
  select customer_id, 'updated', version + 1, consent_tier, case :even::integer when 1 then 'analytics' else 'basic' end,
    '{"consent_tier": "basic", "can_store_images": false, "can_store_embeddings": false, "can_use_for_training": false, "anonymization_level": "full", "policy_version": "0123456789abcdef", "expires_at": null, "consent_granted_at": "2026-01-01T000000.000000Z"}',
    jsonb_build_object('consent_tier', case :even::integer when 1 then 'analytics' else 'basic' end,
      'can_store_images', false, 'can_store_embeddings', :even::integer = 1, 'can_use_for_training', false,
      'anonymization_level', 'full', 'policy_version', :policy::bigint::text, 'expires_at', null,
      'consent_granted_at', '2026-01-01T000000.000000Z'),
    'key=vla_live_abcd', 'user-12345', 'asked for in the settings',
    greatest(clock_timestamp(), consent_updated_at + interval '1 microsecond'), '127.0.0.1', 'bench-driver/0',
    '019ab1de-0000-7000-8000-000000000000', '\x00112233445566778899aabbccddeeff', '\x00112233445566778899aabbccddeeff',
    '\x00112233445566778899aabbccddeeff', '\x00112233445566778899aabbccddeeff', '\x00112233445566778899aabbccddeeff',
    '\x00112233445566778899aabbccddeeff'
  from locked
  returning customer_id, audit_id, version, timestamp
), queued as (
  insert into vlaapi.audit_pending (audit_id) select audit_id from entry
)
update vlaapi.customer_data_consent d
set consent_tier = case :even::integer when 1 then 'analytics' else 'basic' end, can_store_images = false,
  can_store_embeddings = (:even::integer = 1), can_use_for_training = false, anonymization_level = 'full',
  policy_version = :policy::bigint::text, expires_at = null, consent_updated_at = entry.timestamp,
  version = entry.version, expiry_recorded = false, audit_id = entry.audit_id
from entry
where d.customer_id = entry.customer_id;

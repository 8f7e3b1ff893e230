-- The trail is walked in the order of time by this filter too: what many entries have in common, such as the id of a client's
-- nightly run, is not sorted anew for every page.
drop index vlaapi.customer_consent_audit_request_id_idx;
create index customer_consent_audit_request_id_idx on vlaapi.customer_consent_audit (request_id, timestamp, audit_id)
  where request_id is not null;

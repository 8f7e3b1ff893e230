drop index vlaapi.customer_consent_audit_request_id_idx;
create index customer_consent_audit_request_id_idx on vlaapi.customer_consent_audit (request_id, audit_id)
  where request_id is not null;

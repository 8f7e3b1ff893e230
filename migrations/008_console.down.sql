drop index vlaapi.customer_consent_audit_action_idx;
create index customer_consent_audit_action_idx on vlaapi.customer_consent_audit (action, audit_id);
drop index vlaapi.customer_consent_audit_previous_tier_idx;
create index customer_consent_audit_previous_tier_idx on vlaapi.customer_consent_audit (previous_tier, audit_id);
drop index vlaapi.customer_consent_audit_new_tier_idx;
create index customer_consent_audit_new_tier_idx on vlaapi.customer_consent_audit (new_tier, audit_id);
drop index vlaapi.customer_consent_audit_changed_by_idx;
create index customer_consent_audit_changed_by_idx on vlaapi.customer_consent_audit (changed_by, audit_id);
drop index vlaapi.customer_consent_audit_ip_address_idx;
create index customer_consent_audit_ip_address_idx on vlaapi.customer_consent_audit (ip_address, audit_id)
  where ip_address is not null;
drop index vlaapi.audit_events_kind_idx;
drop index vlaapi.customer_data_consent_expires_at_idx;
create index customer_data_consent_expires_at_idx on vlaapi.customer_data_consent (expires_at)
  where expires_at is not null;
create index customer_data_consent_tier_idx on vlaapi.customer_data_consent (consent_tier);
drop index vlaapi.customer_data_consent_tier_customer_idx;
drop table vlaapi.consent_days;
drop view vlaapi.consent_moves;
drop table vlaapi.console_sessions;

-- Events are sealed and stay: where personal data was read, the old rule holds for new events alone.
alter table vlaapi.audit_events drop constraint audit_events_kind_check;
do $$
begin
  if exists (select from vlaapi.audit_events where kind = 'pii.read') then
    alter table vlaapi.audit_events
      add constraint audit_events_kind_check check (kind in ('log.opened', 'pii.erased')) not valid;
  else
    alter table vlaapi.audit_events
      add constraint audit_events_kind_check check (kind in ('log.opened', 'pii.erased'));
  end if;
end
$$;

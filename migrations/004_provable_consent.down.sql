-- Back to consents without versions. Entries stay, with the columns which 003 knows.

drop trigger customer_consent_audit_guard on vlaapi.customer_consent_audit;
drop trigger customer_consent_audit_truncate on vlaapi.customer_consent_audit;
drop trigger customer_data_consent_truncate on vlaapi.customer_data_consent;
drop trigger customer_data_consent_audit on vlaapi.customer_data_consent;
drop trigger customer_data_consent_number on vlaapi.customer_data_consent;
drop function vlaapi.guard_audit_entry();
drop function vlaapi.refuse_truncate();
drop function vlaapi.audit_consent_change();
drop function vlaapi.number_consent_change();
drop function vlaapi.consent_state(vlaapi.customer_data_consent);
drop function vlaapi.rfc3339(timestamptz);

drop index vlaapi.customer_data_consent_expiry_due_idx;
drop index vlaapi.customer_data_consent_updated_at_idx;
alter table vlaapi.customer_data_consent
  drop constraint customer_data_consent_tier_rules_check,
  drop constraint customer_data_consent_version_check,
  drop column expiry_recorded,
  drop column audit_id,
  drop column version,
  drop column policy_version,
  drop constraint customer_data_consent_pkey,
  add constraint customer_data_consent_pkey primary key (consent_id),
  add constraint customer_data_consent_customer_id_key unique (customer_id);

drop index vlaapi.customer_consent_audit_request_id_idx;
drop index vlaapi.customer_consent_audit_ip_address_idx;
drop index vlaapi.customer_consent_audit_changed_by_idx;
drop index vlaapi.customer_consent_audit_new_tier_idx;
drop index vlaapi.customer_consent_audit_previous_tier_idx;
drop index vlaapi.customer_consent_audit_action_idx;
drop index vlaapi.customer_consent_audit_time_idx;
drop index vlaapi.customer_consent_audit_audit_id_idx;
alter table vlaapi.customer_consent_audit
  drop constraint customer_consent_audit_tiers_check,
  drop constraint customer_consent_audit_action_check,
  drop constraint customer_consent_audit_version_check,
  drop constraint customer_consent_audit_version_key,
  drop column request_id,
  drop column on_behalf_of,
  drop column current,
  drop column previous,
  drop column version,
  drop column action,
  drop constraint customer_consent_audit_pkey,
  add constraint customer_consent_audit_pkey primary key (audit_id),
  -- Entries of customers who were deleted since are kept: the key then holds for new entries alone.
  add constraint customer_consent_audit_customer_id_fkey foreign key (customer_id)
    references vlaapi.customers (customer_id) on delete cascade not valid;

do $$
begin
  if not exists (
    select from vlaapi.customer_consent_audit a
    where not exists (select from vlaapi.customers c where c.customer_id = a.customer_id)
  ) then
    alter table vlaapi.customer_consent_audit validate constraint customer_consent_audit_customer_id_fkey;
  end if;
end
$$;

create function vlaapi.touch_consent() returns trigger language plpgsql as $$
begin
  new.consent_updated_at := now();
  return new;
end
$$;

create trigger customer_data_consent_touch before update on vlaapi.customer_data_consent
  for each row execute function vlaapi.touch_consent();

grant update, delete on vlaapi.customer_consent_audit to vlaapi_app;
revoke all on vlaapi.customer_consent_audit from vlaapi_eraser;
revoke usage on schema vlaapi from vlaapi_eraser;

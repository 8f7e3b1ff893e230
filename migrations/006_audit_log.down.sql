-- Back to an unsealed trail. Entries stay; the log, its proofs and the events in it are gone.

drop table vlaapi.audit_verifications, vlaapi.audit_erasures, vlaapi.audit_quarantine, vlaapi.audit_cosignatures,
  vlaapi.audit_checkpoints, vlaapi.audit_nodes, vlaapi.audit_leaves, vlaapi.audit_writer_keys, vlaapi.audit_logs,
  vlaapi.audit_events;
drop function vlaapi.refuse_rewriting();
drop trigger customer_consent_audit_queue on vlaapi.customer_consent_audit;
drop trigger customer_consent_audit_salt on vlaapi.customer_consent_audit;
drop function vlaapi.queue_audit_entry();
drop function vlaapi.salt_audit_entry();
drop table vlaapi.audit_pending;

create or replace function vlaapi.guard_audit_entry() returns trigger
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

alter table vlaapi.customer_consent_audit
  drop constraint customer_consent_audit_salts_check,
  drop column mac,
  drop column user_agent_salt,
  drop column ip_address_salt,
  drop column change_reason_salt,
  drop column on_behalf_of_salt,
  drop column changed_by_salt;
drop function vlaapi.random_salt();
drop function vlaapi.calendar_time(timestamptz);

do $$
begin
  execute replace(pg_get_functiondef('vlaapi.number_consent_change()'::regprocedure),
    'vlaapi.next_audit_id()', 'nextval(''vlaapi.customer_consent_audit_audit_id_seq'')');
end
$$;

alter table vlaapi.customer_consent_audit
  alter column audit_id set default nextval('vlaapi.customer_consent_audit_audit_id_seq');
alter table vlaapi.audit_events
  alter column audit_id set default nextval('vlaapi.customer_consent_audit_audit_id_seq');

drop function vlaapi.next_audit_id();
drop function vlaapi.advance_sequences();

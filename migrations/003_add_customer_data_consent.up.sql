-- What may be kept of a customer's traffic, and who changed it.

create table vlaapi.customer_data_consent (
  consent_id serial,
  customer_id uuid not null,
  consent_tier varchar(20) not null default 'none',
  can_store_images boolean not null default false,
  can_store_embeddings boolean not null default false,
  can_use_for_training boolean not null default false,
  anonymization_level varchar(20) not null default 'full',
  consent_granted_at timestamptz,
  consent_updated_at timestamptz not null default now(),
  expires_at timestamptz,
  constraint customer_data_consent_pkey primary key (consent_id),
  constraint customer_data_consent_customer_id_key unique (customer_id),
  constraint customer_data_consent_customer_id_fkey foreign key (customer_id)
    references vlaapi.customers (customer_id) on delete cascade,
  constraint customer_data_consent_consent_tier_check
    check (consent_tier in ('none', 'basic', 'analytics', 'research')),
  constraint customer_data_consent_anonymization_level_check
    check (anonymization_level in ('full', 'partial', 'minimal', 'none'))
);

create index customer_data_consent_tier_idx on vlaapi.customer_data_consent (consent_tier);
create index customer_data_consent_expires_at_idx on vlaapi.customer_data_consent (expires_at)
  where expires_at is not null;

create table vlaapi.customer_consent_audit (
  audit_id bigserial,
  customer_id uuid not null,
  previous_tier varchar(20),
  new_tier varchar(20) not null,
  changed_by varchar(255),
  change_reason text,
  timestamp timestamptz not null default now(),
  ip_address inet,
  user_agent text,
  constraint customer_consent_audit_pkey primary key (audit_id),
  constraint customer_consent_audit_customer_id_fkey foreign key (customer_id)
    references vlaapi.customers (customer_id) on delete cascade
);

create index customer_consent_audit_customer_time_idx on vlaapi.customer_consent_audit (customer_id, timestamp desc);

create function vlaapi.touch_consent() returns trigger language plpgsql as $$
begin
  new.consent_updated_at := now();
  return new;
end
$$;

create trigger customer_data_consent_touch before update on vlaapi.customer_data_consent
  for each row execute function vlaapi.touch_consent();

insert into vlaapi.customer_data_consent (customer_id)
select customer_id from vlaapi.customers;

grant select, insert, update, delete on vlaapi.customer_data_consent, vlaapi.customer_consent_audit to vlaapi_app;
grant usage, select on sequence
  vlaapi.customer_data_consent_consent_id_seq, vlaapi.customer_consent_audit_audit_id_seq to vlaapi_app;

-- What the service needs for itself: keys of operators, answers to retries, secrets which its replicas share.

-- A key without a customer belongs to the operator.
alter table vlaapi.api_keys
  alter column customer_id drop not null,
  -- The key which replaced this one; until `expires_at` both are good.
  add column replaced_by uuid;

create table vlaapi.idempotent_answers (
  key_id uuid not null,
  idempotency_key_hash bytea not null,
  request_hash bytea not null,
  -- Encrypted with a key that only the caller's API key and Idempotency-Key give: an answer may hold a new secret.
  sealed_answer bytea not null,
  created_at timestamptz not null,
  constraint idempotent_answers_pkey primary key (key_id, idempotency_key_hash),
  constraint idempotent_answers_key_id_fkey foreign key (key_id)
    references vlaapi.api_keys (key_id) on delete cascade
);

create index idempotent_answers_created_at_idx on vlaapi.idempotent_answers (created_at);

create table vlaapi.service_secrets (
  name varchar(40) not null,
  secret bytea not null,
  constraint service_secrets_pkey primary key (name)
);

-- gen_random_uuid draws from the strong source; two of them give 244 random bits.
insert into vlaapi.service_secrets (name, secret)
values ('cursor', sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));

-- Makes the monthly partitions from `first_month` on. Security definer: the service owns no table.
create function vlaapi.make_inference_log_partitions(first_month date, months integer) returns integer
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  month_start timestamptz;
  month_end timestamptz;
  partition_name text;
  made integer := 0;
begin
  -- Replicas that start together ask for the same months.
  perform pg_advisory_xact_lock(hashtext('vlaapi.make_inference_log_partitions'));
  for i in 0 .. months - 1 loop
    month_start := (date_trunc('month', first_month::timestamp) + make_interval(months => i)) at time zone 'UTC';
    month_end := (date_trunc('month', first_month::timestamp) + make_interval(months => i + 1)) at time zone 'UTC';
    partition_name := 'inference_logs_' || to_char(month_start at time zone 'UTC', 'YYYY_MM');
    if to_regclass('vlaapi.' || partition_name) is not null then
      continue;
    end if;
    -- A month which the default partition already caught rows of stays there.
    if exists (
      select from vlaapi.inference_logs_default
      where timestamp >= month_start and timestamp < month_end
    ) then
      continue;
    end if;
    execute format(
      'create table vlaapi.%I partition of vlaapi.inference_logs for values from (%L) to (%L)',
      partition_name, month_start, month_end
    );
    made := made + 1;
  end loop;
  return made;
end
$$;

revoke execute on function vlaapi.make_inference_log_partitions(date, integer) from public;
grant execute on function vlaapi.make_inference_log_partitions(date, integer) to vlaapi_app;
grant select, insert, update, delete on vlaapi.idempotent_answers to vlaapi_app;
grant select on vlaapi.service_secrets to vlaapi_app;

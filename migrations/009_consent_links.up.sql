-- Links to the customer's own page. A link is signed by a key that is here too: it is good only while its row says so.

create table vlaapi.consent_link_keys (
  key_id integer generated always as identity,
  secret bytea not null,
  created_at timestamptz not null,
  constraint consent_link_keys_pkey primary key (key_id)
);

create table vlaapi.consent_links (
  customer_id uuid not null,
  link_id uuid not null,
  -- The key that signed it: kept for as long as there are links of it.
  key_id integer not null,
  created_at timestamptz not null,
  created_by varchar(255) not null,
  on_behalf_of varchar(255),
  expires_at timestamptz not null,
  revoked_at timestamptz,
  constraint consent_links_pkey primary key (customer_id, link_id),
  constraint consent_links_customer_id_fkey foreign key (customer_id)
    references vlaapi.customers (customer_id) on delete cascade,
  constraint consent_links_key_id_fkey foreign key (key_id) references vlaapi.consent_link_keys (key_id),
  constraint consent_links_expires_at_check check (expires_at > created_at)
);

create index consent_links_expires_at_idx on vlaapi.consent_links (expires_at);
create index consent_links_key_id_idx on vlaapi.consent_links (key_id);

grant select, insert, delete on vlaapi.consent_link_keys to vlaapi_app;
grant select, insert, update, delete on vlaapi.consent_links to vlaapi_app;

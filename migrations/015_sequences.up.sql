-- A sequence can be behind the ids of its table: after a restored dump, logical replication, or setval. Ids that are drawn
-- then are in use already: their entries would never be sealed, and other replicas would not learn of their changes.

-- Moves every sequence of this schema that is behind its column forward, and never back. Answers which were behind, and
-- from where to where they were moved. A column counts if an index begins with it: to look for the largest id in any other
-- would read the whole table. Security definer: the service owns no sequence.
create function vlaapi.advance_sequences()
  returns table (sequence_name text, last_id bigint, largest_id bigint)
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  -- An id above this was never drawn. To follow it would leave no ids to draw.
  largest_followed constant bigint := 4503599627370496;
  owned record;
  tables text[];
  largest_query text;
  last_query text;
begin
  for owned in
    select format('%I.%I', s.relnamespace::regnamespace, s.relname) as sequence,
      format('%I.%I', t.relnamespace::regnamespace, t.relname) as of_table, a.attname as id_column
    from pg_depend d
    join pg_class s on s.oid = d.objid and s.relkind = 'S'
    join pg_class t on t.oid = d.refobjid
    join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
    where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')
      and s.relnamespace = 'vlaapi'::regnamespace
      and exists (
        select from pg_index i
        where i.indrelid = t.oid and i.indkey[0] = a.attnum and i.indpred is null and i.indisvalid
      )
    order by 1
  loop
    tables := array[owned.of_table];
    if owned.sequence = 'vlaapi.customer_consent_audit_audit_id_seq' then
      -- One number names one leaf, whatever it is about.
      tables := tables || array['vlaapi.audit_events', 'vlaapi.audit_leaves', 'vlaapi.audit_quarantine'];
    end if;
    select format('select greatest(0, %s)', string_agg(
      format('(select max(%1$I) from %2$s where %1$I <= %3$s)', owned.id_column, of_table, largest_followed), ', '))
    into largest_query
    from unnest(tables) as of_table;
    last_query := format('select last_value - (not is_called)::integer from %s', owned.sequence);

    execute last_query into last_id;
    execute largest_query into largest_id;
    continue when last_id >= largest_id;
    -- Only one session moves a sequence: setval by a second one could set it back.
    perform pg_advisory_xact_lock(hashtextextended('consentd sequences', 0));
    execute last_query into last_id;
    execute largest_query into largest_id;
    continue when last_id >= largest_id;
    if largest_id - last_id <= 1000000 then
      -- nextval cannot set it back, whatever is drawn meanwhile.
      perform nextval(owned.sequence::regclass) from generate_series(last_id + 1, largest_id);
    else
      perform setval(owned.sequence::regclass, largest_id);
    end if;
    sequence_name := owned.sequence;
    -- What was changed under an id that was drawn twice cannot be followed: replicas forget what they hold in memory.
    perform pg_notify('consentd_sequences', '');
    return next;
  end loop;
end
$$;

-- Draws the id of an entry or event. An id that is not above all that can be seen was drawn before: the sequence is behind.
-- Security definer: whoever may add an entry need not be allowed to move the sequence.
create function vlaapi.next_audit_id() returns bigint
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  largest bigint;
  drawn bigint;
begin
  -- The transaction has its number before it draws: see 007.
  perform pg_current_xact_id();
  select greatest((select max(audit_id) from vlaapi.customer_consent_audit),
    (select max(audit_id) from vlaapi.audit_events), (select max(audit_id) from vlaapi.audit_leaves))
  into largest;
  drawn := nextval('vlaapi.customer_consent_audit_audit_id_seq');
  if drawn <= largest then
    perform from vlaapi.advance_sequences();
    drawn := nextval('vlaapi.customer_consent_audit_audit_id_seq');
  end if;
  return drawn;
end
$$;

revoke execute on function vlaapi.advance_sequences(), vlaapi.next_audit_id() from public;
grant execute on function vlaapi.advance_sequences(), vlaapi.next_audit_id() to vlaapi_app;

alter table vlaapi.customer_consent_audit alter column audit_id set default vlaapi.next_audit_id();
alter table vlaapi.audit_events alter column audit_id set default vlaapi.next_audit_id();

-- The trigger that numbers changes past the service draws its ids from there too, and is otherwise as it was.
do $$
declare
  definition constant text := pg_get_functiondef('vlaapi.number_consent_change()'::regprocedure);
  changed constant text :=
    replace(definition, 'nextval(''vlaapi.customer_consent_audit_audit_id_seq'')', 'vlaapi.next_audit_id()');
begin
  if changed = definition then
    raise exception 'vlaapi.number_consent_change() does not draw ids from the sequence';
  end if;
  execute changed;
end
$$;

-- Whether the tables' files have been seen to since an erasure took something away: a service that ends before that, or
-- another replica, takes it up again. Of the erasures so far that is not known, so it is done once more.
alter table vlaapi.audit_erasures add column vacuumed_at timestamptz;
create index audit_erasures_in_files_idx on vlaapi.audit_erasures (audit_id)
  where done_at is not null and vacuumed_at is null;

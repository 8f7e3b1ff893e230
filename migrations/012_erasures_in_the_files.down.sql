drop index vlaapi.audit_erasures_in_files_idx;
alter table vlaapi.audit_erasures drop column vacuumed_at;

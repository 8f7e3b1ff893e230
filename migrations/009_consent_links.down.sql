-- Every link that was given out ends with this.
drop table vlaapi.consent_links;
drop table vlaapi.consent_link_keys;

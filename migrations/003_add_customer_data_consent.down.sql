drop table vlaapi.customer_consent_audit;
drop table vlaapi.customer_data_consent;
drop function vlaapi.touch_consent();

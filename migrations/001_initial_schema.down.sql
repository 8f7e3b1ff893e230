-- The schema itself stays: it holds the record of the migrations. So does the role: it belongs to the whole cluster.
drop table vlaapi.feedback;
drop table vlaapi.safety_incidents;
drop table vlaapi.inference_logs;
drop table vlaapi.api_keys;
drop table vlaapi.customers;
revoke usage on schema vlaapi from vlaapi_app;

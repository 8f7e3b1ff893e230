-- Ground truth and continuous learning: what a person corrected, and why something failed.

alter table vlaapi.feedback
  add column corrected_action double precision[],
  add column original_action double precision[],
  add column correction_delta double precision[],
  add column correction_magnitude double precision,
  add column failure_reason varchar(200),
  add constraint feedback_action_length_check check (
    coalesce(cardinality(corrected_action), 7) = 7
    and coalesce(cardinality(original_action), 7) = 7
    and coalesce(cardinality(correction_delta), 7) = 7
  ),
  add constraint feedback_correction_magnitude_check
    check (correction_magnitude is null or correction_magnitude >= 0),
  -- `not valid`: feedback from before is kept as it is, new feedback must be complete.
  add constraint feedback_required_fields_check check (
    case feedback_type
      when 'success_rating' then rating is not null
      when 'safety_rating' then rating is not null
      when 'action_correction' then corrected_action is not null
      when 'failure_report' then failure_reason is not null
    end
  ) not valid;

create materialized view vlaapi.feedback_analytics as
select
  customer_id,
  (timestamp at time zone 'UTC')::date as day,
  count(*) as feedback_count,
  count(*) filter (where feedback_type = 'success_rating') as success_rating_count,
  avg(rating) filter (where feedback_type = 'success_rating') as success_rating_average,
  count(*) filter (where feedback_type = 'safety_rating') as safety_rating_count,
  avg(rating) filter (where feedback_type = 'safety_rating') as safety_rating_average,
  count(*) filter (where feedback_type = 'action_correction') as correction_count,
  avg(correction_magnitude) filter (where feedback_type = 'action_correction') as correction_magnitude_average,
  count(*) filter (where feedback_type = 'failure_report') as failure_report_count
from vlaapi.feedback
group by customer_id, (timestamp at time zone 'UTC')::date;

-- Unique, so that the view can be refreshed concurrently.
create unique index feedback_analytics_customer_day_idx on vlaapi.feedback_analytics (customer_id, day);

grant select on vlaapi.feedback_analytics to vlaapi_app;

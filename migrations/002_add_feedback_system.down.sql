drop materialized view vlaapi.feedback_analytics;

alter table vlaapi.feedback
  drop constraint feedback_required_fields_check,
  drop constraint feedback_correction_magnitude_check,
  drop constraint feedback_action_length_check,
  drop column failure_reason,
  drop column correction_magnitude,
  drop column correction_delta,
  drop column original_action,
  drop column corrected_action;

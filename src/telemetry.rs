//! Logs, metrics, traces.

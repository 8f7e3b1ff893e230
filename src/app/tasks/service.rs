//! The background tasks of a running service, all but those of the sealer.

use std::sync::Arc;
use std::time::Duration;

use super::{Tasks, expiry, maintenance, metrics};
use crate::app::log::Log;
use crate::app::{Clock, Database, erasing, following, verification};
use crate::cache::Cache;
use crate::config::ServeArgs;
use crate::error::StartError;
use crate::ops::consents::Writer;
use crate::ops::log::LogView;
use crate::store::Store;

/// The parts of the service that the background tasks work with.
#[derive(Debug)]
pub struct ServiceTasks<'a> {
    pub args: &'a ServeArgs,
    pub database: &'a Database,
    pub store: Store,
    pub cache: Arc<Cache>,
    pub clock: Clock,
    pub log: &'a Log,
    /// The state of the log, if its entries are sealed: a log without signatures is a fault then.
    pub sealed: Option<Arc<LogView>>,
    pub writer: Writer,
    /// The number of customers that memory has room for.
    pub customers: usize,
}

impl ServiceTasks<'_> {
    pub fn start(self, tasks: &Tasks) -> Result<(), StartError> {
        let Self { args, database, store, cache, clock, log, sealed, writer, customers } = self;
        let data_dir = args.database.data_dir()?;
        let sweep_interval = Duration::from_secs(args.serve.sweep_interval);
        tasks.spawn("expiry", (store.clone(), writer, clock.clone()), move |(store, writer, clock), stop| {
            expiry::sweep(store, writer, clock, sweep_interval, stop)
        });
        tasks.spawn("maintenance", (store.clone(), clock.clone()), |(store, clock), stop| {
            maintenance::maintain(store, clock, stop)
        });
        let context = (store.clone(), Arc::clone(&cache), clock.clone());
        tasks.spawn("metrics", (context.clone(), sealed), |((store, cache, clock), sealed), stop| {
            metrics::measure(store, cache, clock, sealed, stop)
        });
        tasks.spawn("follower", context, |(store, cache, clock), stop| {
            following::follow(store, cache, clock, stop)
        });
        tasks.spawn("hints", (store.clone(), Arc::clone(&cache)), |(store, cache), stop| {
            following::tell(store, cache, stop)
        });
        let context = (store.clone(), database.owner.clone(), clock.clone());
        tasks.spawn("erasure", context, |(store, owner, clock), stop| {
            erasing::erase(store, owner, clock, stop)
        });
        let verifier = verification::Verifier {
            store: store.clone(),
            cache: Arc::clone(&cache),
            service: database.service.clone(),
            keys: Arc::clone(&log.keys),
            outside: verification::Outside::new(&args.audit, &data_dir),
            clock: clock.clone(),
        };
        let verify_interval = args.audit.verify_interval();
        tasks.spawn(
            "verifier",
            (verifier, Arc::clone(&log.verifications)),
            move |(verifier, verifications), stop| verifier.verify(verifications, verify_interval, stop),
        );
        let retention = args.audit.audit_retention.clone();
        tasks.spawn(
            "retention",
            (store.clone(), Arc::clone(&log.keys), retention, clock),
            |(store, keys, retention, clock), stop| erasing::retain(store, keys, retention, clock, stop),
        );
        if args.serve.warm {
            tasks.spawn("warm", (store, cache), move |(store, cache), stop| {
                following::warm(store, cache, customers, stop)
            });
        }
        Ok(())
    }
}

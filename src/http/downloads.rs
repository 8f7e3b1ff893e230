//! Downloads of any size: few run at once, each with a slot, and each must be taken at a minimum rate.
//!
//! A slot keeps database connections and memory busy until the last byte is taken. So a customer has one of them, the
//! operator always keeps some, and a reader that is too slow loses its own: the download then ends as an error, which every
//! client notices.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::stream::{self, Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::shares::{Bounds, Owner, Share, Shares};
use crate::error::Error;
use crate::telemetry;

/// Slots, if there are read connections for twice as many: each keeps one busy.
const SLOTS: usize = 4;

/// The slots of downloads, and the rate at which each must be taken.
#[derive(Clone, Debug)]
pub struct Downloads {
    slots: Shares,
    rate: MinimumRate,
}

/// The slowest reader that a download goes on for.
#[derive(Clone, Copy, Debug)]
pub struct MinimumRate {
    pub bytes_per_second: u32,
    /// The time in which a reader may be slower, or take nothing at all, before it counts. The kernel takes bytes off the
    /// service by the megabyte, and nothing in between: it must be long enough for that.
    pub window: Duration,
}

impl Default for MinimumRate {
    fn default() -> Self {
        Self { bytes_per_second: 16 * 1024, window: Duration::from_mins(1) }
    }
}

impl MinimumRate {
    fn time_for(self, bytes: usize) -> Duration {
        Duration::from_secs(1) * u32::try_from(bytes).unwrap_or(u32::MAX) / self.bytes_per_second.max(1)
    }
}

/// A slot, kept until its last clone is dropped.
#[derive(Clone, Debug)]
pub struct Slot {
    _share: Arc<Share>,
    rate: MinimumRate,
}

impl Downloads {
    pub fn new(read_connections: u32, rate: MinimumRate) -> Self {
        // Two at the least, so that the operator keeps one.
        let total = SLOTS.min(read_connections as usize / 2).max(2);
        Self { slots: Shares::new(Bounds { total, others: total / 2, each: 1 }), rate }
    }

    /// A slot; `None` if none came free in time.
    pub async fn slot(&self, owner: Owner) -> Option<Slot> {
        let share = self.slots.enter(owner, 1).await;
        if share.is_none() {
            telemetry::refused_for_overload("export");
        }
        share.map(|share| Slot { _share: Arc::new(share), rate: self.rate })
    }
}

impl Slot {
    /// A body of these parts. A part that is an error breaks the download off.
    pub fn body(self, parts: impl Stream<Item = Result<Bytes, Error>> + Send + 'static) -> Body {
        let (sent, taken) = mpsc::channel(1);
        // A task of its own: a client that takes nothing must be noticed, and its connection asks for nothing meanwhile.
        let sending = AbortOnDropHandle::new(tokio::spawn(self.send(parts, sent)));
        Body::from_stream(stream::unfold(Some((taken, sending)), async |download| {
            let (mut taken, sending) = download?;
            if let Some(part) = taken.recv().await {
                return Some((Ok(part), Some((taken, sending))));
            }
            // There is no more, or it was broken off: half a download must not be taken for a whole one.
            match sending.await.map_err(|error| Error::Internal(error.to_string())) {
                Ok(Ok(())) => None,
                Ok(Err(error)) | Err(error) => Some((Err(error), None)),
            }
        }))
    }

    /// Sends the parts for as long as the client takes them fast enough. The slot is given back before the body ends.
    async fn send(
        self,
        parts: impl Stream<Item = Result<Bytes, Error>> + Send,
        sent: mpsc::Sender<Bytes>,
    ) -> Result<(), Error> {
        let mut parts = std::pin::pin!(parts);
        // The time that the client has left. It earns more with each byte, and loses what it makes us wait.
        let mut credit = self.rate.window;
        while let Some(part) = parts.next().await {
            let part = part?;
            let earned = self.rate.time_for(part.len());
            let since = Instant::now();
            match timeout(credit, sent.send(part)).await {
                Ok(Ok(())) => {}
                // The client is gone.
                Ok(Err(_)) => return Ok(()),
                Err(_) => {
                    tracing::warn!("a download is cut: its client takes it too slowly");
                    telemetry::download_cut();
                    return Err(Error::Internal("the client takes the download too slowly".to_owned()));
                }
            }
            credit = (credit.saturating_sub(since.elapsed()) + earned).min(self.rate.window);
        }
        Ok(())
    }
}

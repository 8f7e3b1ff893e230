//! What each connection waits for, and since when: the clock behind [`Limits`].
//!
//! An answer is followed until its last byte has left: each [`Chunk`] of it reports when the protocol has written it. So
//! an answer that its client does not take is known as such, whatever else moves on the connection: over HTTP/2 other
//! streams and pings do.

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::http::Version;
use hyper::body::{Body as HttpBody, Buf, Bytes, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::server::Limits;

/// Answers leave in chunks of this size, each of which has [`Limits::stalled_write`]: a client must take some 550 bytes a
/// second.
const CHUNK: usize = 16 * 1024;

/// Bytes of untaken answers that one HTTP/2 connection may hold. Then its client is asked to open another one, and further
/// requests on it wait.
const MAX_UNTAKEN: usize = 4 * 1024 * 1024;
/// The most that one answer counts: a few large downloads that are taken slowly must not hold up the other requests of a
/// proxy, which come on the same connection.
const LARGE: usize = 1024 * 1024;
/// The size that is expected of an answer at first: as many of them fit as there may be requests.
const EXPECTED: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Pace {
    limits: Limits,
    state: Mutex<State>,
    /// An answer was taken, and there may be space for the next one.
    taken: Notify,
    draining: AtomicBool,
}

#[derive(Debug)]
struct State {
    waiting_for: Awaited,
    since: Instant,
    idle: Duration,
    multiplexed: bool,
    stalled_since: Option<Instant>,
    /// The requests from their head to the last byte of their answers. There are few: HTTP/1 has one at a time.
    answers: Vec<Answer>,
    next_id: u64,
    /// Bytes of answers that have not left, and those that are expected of requests that have no answer yet.
    untaken: usize,
    /// The size that is expected of the next answer, by the sizes of those before it.
    expected: usize,
    /// When the client was asked to open no more streams.
    leaving: Option<Instant>,
    /// A request came for whose answer there is no space.
    crowded: bool,
    /// The client was asked to leave, and did not.
    stays: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Awaited {
    /// The rest of a head; a new connection owes its first.
    Head,
    /// The next request, if any.
    Request,
    /// Our own answer, or a body, which has a limit of its own.
    Answer,
}

#[derive(Debug, Default)]
struct Answer {
    id: u64,
    /// The body was given out, or given up: the answer ends with its last chunk.
    finished: bool,
    /// Chunks that the protocol has not written yet.
    chunks: usize,
    /// Bytes that are counted as untaken.
    size: usize,
    /// It has no handler yet: too many bytes are untaken.
    waiting: bool,
    /// Since when the client is waited for.
    owed_since: Option<Instant>,
    /// The client was waited for in vain.
    given_up: bool,
}

/// Reaction to the alarm of a connection.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Look again then.
    Wait(Instant),
    /// Take no more requests, and let those in flight finish.
    Leave,
    Cut,
}

impl Pace {
    pub(super) fn new(limits: Limits) -> Self {
        let state = State {
            waiting_for: Awaited::Head,
            since: Instant::now(),
            idle: limits.idle,
            multiplexed: false,
            stalled_since: None,
            answers: Vec::new(),
            next_id: 0,
            untaken: 0,
            expected: EXPECTED,
            leaving: None,
            crowded: false,
            stays: false,
        };
        let (taken, draining) = (Notify::new(), AtomicBool::new(false));
        Self { limits, state: Mutex::new(state), taken, draining }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole before the lock is given back, whatever panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when to look at the connection again at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        let mut state = self.state();
        let awaited = match state.waiting_for {
            Awaited::Head => Some(state.since + self.limits.header),
            Awaited::Request => Some(state.since + state.idle),
            // Streams move without their connection: it looks at them often enough to see each of them in time.
            Awaited::Answer if state.multiplexed => Some(state.since + self.limits.stalled_write),
            Awaited::Answer => None,
        };
        let stalled = state.stalled_since.map(|since| since + self.limits.stalled_write);
        let owed = state.owed_since().map(|since| since + self.limits.stalled_write);
        let crowded = state.crowded && state.leaving.is_none();
        let over = (crowded || state.stays || state.is_given_up()).then_some(state.since);
        [awaited, stalled, owed, over].into_iter().flatten().min()
    }

    pub(super) fn verdict(&self, now: Instant) -> Verdict {
        let mut state = self.state();
        let is_over = |since: Instant, limit: Duration| since + limit <= now;
        for answer in &mut state.answers {
            answer.given_up =
                answer.owed_since.is_some_and(|since| is_over(since, self.limits.stalled_write));
        }
        let late = state.waiting_for == Awaited::Head && is_over(state.since, self.limits.header);
        let stalled = state.stalled_since.is_some_and(|since| is_over(since, self.limits.stalled_write));
        if late || stalled || state.stays || state.is_given_up() {
            return Verdict::Cut;
        }
        let idle = state.waiting_for == Awaited::Request && is_over(state.since, state.idle);
        let stalls = state.answers.iter().any(|answer| answer.given_up);
        if state.leaving.is_none() && (idle || stalls || state.crowded) {
            state.leave(now);
            return Verdict::Leave;
        }
        if state.waiting_for == Awaited::Answer {
            state.since = now;
        }
        drop(state);
        Verdict::Wait(self.due().unwrap_or(now + self.limits.idle))
    }

    /// From now on each answer over HTTP/1 is its connection's last, and an idle connection is kept no longer than `drain`:
    /// a client that gives idle connections up sooner never sends a request to one that is being closed.
    pub(super) fn drain(&self, drain: Duration) {
        let mut state = self.state();
        state.idle = state.idle.min(drain);
        self.draining.store(true, Ordering::Relaxed);
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether this is an HTTP/2 connection that must be asked to leave now, since the service stops.
    pub(super) fn must_leave(&self) -> bool {
        let mut state = self.state();
        let must = self.is_draining() && state.multiplexed && state.leaving.is_none();
        if must {
            state.leave(Instant::now());
        }
        must
    }

    /// A request whose head has come.
    pub(super) fn begin(self: &Arc<Self>, version: Version) -> InFlight {
        let multiplexed = version == Version::HTTP_2;
        let mut state = self.state();
        state.waiting_for = Awaited::Answer;
        state.multiplexed = multiplexed;
        if multiplexed {
            state.since = Instant::now();
            state.crowded |= state.is_crowded();
            state.stays |= state.leaving.is_some_and(|since| since + self.limits.header <= state.since);
        }
        let id = state.next_id;
        state.next_id += 1;
        state.answers.push(Answer { id, ..Answer::default() });
        InFlight(Some(AnswerId { pace: Arc::clone(self), id, multiplexed }))
    }

    /// Reserves the bytes that an answer is expected to have; false while too many are untaken.
    fn reserve(&self, id: u64) -> bool {
        let mut state = self.state();
        let may = !state.is_crowded();
        if may {
            let expected = state.expected;
            state.weigh(id, expected);
        }
        if let Some(answer) = state.answers.iter_mut().find(|answer| answer.id == id) {
            answer.waiting = !may;
        }
        may
    }

    /// An answer has this size. A connection of large answers soon has one at a time, one of small answers has many.
    fn answered(&self, id: u64, size: usize) {
        let mut state = self.state();
        let size = size.min(LARGE);
        state.expected = size.max(state.expected / 2).max(EXPECTED);
        state.weigh(id, size);
        drop(state);
        self.taken.notify_waiters();
    }

    fn bytes_came(&self) {
        let mut state = self.state();
        // Over HTTP/2 they may be a ping or a window.
        if state.waiting_for == Awaited::Request && !state.multiplexed {
            state.wait_for(Awaited::Head);
        }
    }

    fn wrote(&self, taken: bool) {
        let mut state = self.state();
        if taken {
            state.stalled_since = None;
        } else if state.stalled_since.is_none() {
            state.stalled_since = Some(Instant::now());
        }
    }
}

impl State {
    fn wait_for(&mut self, awaited: Awaited) {
        self.waiting_for = awaited;
        self.since = Instant::now();
    }

    /// Closes politely: the client has as long for that as for a head.
    fn leave(&mut self, now: Instant) {
        self.leaving = Some(now);
        if self.waiting_for == Awaited::Request {
            self.waiting_for = Awaited::Head;
            self.since = now;
        }
    }

    /// Since when a client is waited for, of whom there is still hope.
    fn owed_since(&mut self) -> Option<Instant> {
        let hoped_for = self.answers.iter_mut().filter(|answer| !answer.given_up);
        hoped_for
            .filter_map(|answer| {
                // Over HTTP/1 the time is taken here, once a chunk was not written at once: most answers need none.
                if answer.chunks > 0 && answer.owed_since.is_none() {
                    answer.owed_since = Some(Instant::now());
                }
                answer.owed_since
            })
            .min()
    }

    /// Whether the client takes none of the answers any more.
    fn is_given_up(&self) -> bool {
        self.answers.iter().any(|answer| answer.given_up)
            && self.answers.iter().all(|answer| answer.given_up || answer.waiting)
    }

    /// Whether the connection has no space for a further answer.
    fn is_crowded(&self) -> bool {
        self.untaken + self.expected > MAX_UNTAKEN
    }

    /// Counts an answer with another size.
    fn weigh(&mut self, id: u64, size: usize) {
        if let Some(answer) = self.answers.iter_mut().find(|answer| answer.id == id) {
            self.untaken = self.untaken - answer.size + size;
            answer.size = size;
        }
    }
}

/// An answer of a connection.
#[derive(Debug)]
struct AnswerId {
    pace: Arc<Pace>,
    id: u64,
    multiplexed: bool,
}

impl AnswerId {
    /// Changes the account of the answer, which ends with its last chunk.
    fn account(&self, change: impl FnOnce(&mut Answer)) {
        let mut state = self.pace.state();
        let Some(at) = state.answers.iter().position(|answer| answer.id == self.id) else { return };
        let answer = &mut state.answers[at];
        change(answer);
        if !answer.finished || answer.chunks > 0 {
            return;
        }
        let answer = state.answers.swap_remove(at);
        state.untaken -= answer.size;
        if state.answers.is_empty() {
            let leaving = state.leaving.is_some();
            state.wait_for(if leaving { Awaited::Head } else { Awaited::Request });
        }
        drop(state);
        if self.multiplexed {
            self.pace.taken.notify_waiters();
        }
    }
}

/// A request between its head and the last chunk of its answer's body.
#[derive(Debug)]
pub(super) struct InFlight(Option<AnswerId>);

impl InFlight {
    /// Waits, over HTTP/2, until the client has taken enough of the answers before this one.
    pub(super) async fn turn(&self) {
        let Some(AnswerId { pace, id, .. }) = self.0.as_ref().filter(|answer| answer.multiplexed) else {
            return;
        };
        loop {
            let mut taken = pin!(pace.taken.notified());
            taken.as_mut().enable();
            if pace.reserve(*id) {
                return;
            }
            taken.await;
        }
    }

    /// Whether the connection must be closed after this answer. HTTP/2 has another way to say that.
    pub(super) fn is_last(&self) -> bool {
        self.0.as_ref().is_some_and(|answer| !answer.multiplexed && answer.pace.is_draining())
    }

    pub(super) fn until_the_end_of(self, body: Body) -> AnswerBody {
        if let Some(answer) = self.0.as_ref().filter(|answer| answer.multiplexed) {
            answer.pace.answered(answer.id, usize::try_from(body.size_hint().lower()).unwrap_or(LARGE));
        }
        AnswerBody { body, rest: Bytes::new(), in_flight: self }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(answer) = &self.0 {
            answer.account(|answer| answer.finished = true);
        }
    }
}

/// An answer's body, in chunks that are followed until they have left.
pub(super) struct AnswerBody {
    body: Body,
    rest: Bytes,
    in_flight: InFlight,
}

impl HttpBody for AnswerBody {
    type Data = Chunk;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, axum::Error>>> {
        let this = &mut *self;
        while this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(frame) => {
                        return Poll::Ready(frame.into_trailers().ok().map(Frame::trailers).map(Ok));
                    }
                },
            }
        }
        let bytes = this.rest.split_to(this.rest.len().min(CHUNK));
        let last = this.is_end_stream();
        Poll::Ready(Some(Ok(Frame::data(Chunk::new(bytes, &mut this.in_flight, last)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(rest.saturating_add(body.lower()));
        if let Some(upper) = body.upper() {
            hint.set_upper(rest.saturating_add(upper));
        }
        hint
    }
}

/// A piece of an answer, until the protocol has written it, or has given it up.
pub(super) struct Chunk {
    bytes: Bytes,
    answer: Option<AnswerId>,
    last: bool,
}

impl Chunk {
    /// The last chunk takes the answer along.
    fn new(bytes: Bytes, in_flight: &mut InFlight, last: bool) -> Self {
        let answer = if last {
            in_flight.0.take()
        } else {
            in_flight.0.as_ref().map(|AnswerId { pace, id, multiplexed }| AnswerId {
                pace: Arc::clone(pace),
                id: *id,
                multiplexed: *multiplexed,
            })
        };
        if let Some(answer) = &answer {
            let now = answer.multiplexed.then(Instant::now);
            answer.account(|answer| {
                answer.chunks += 1;
                answer.owed_since = answer.owed_since.or(now);
            });
        }
        Self { bytes, answer, last }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let Some(answer) = &self.answer else { return };
        let now = answer.multiplexed.then(Instant::now);
        answer.account(|answer| {
            answer.chunks -= 1;
            answer.given_up = false;
            answer.owed_since = now.filter(|_| answer.chunks > 0);
            answer.finished |= self.last;
        });
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.bytes.copy_to_bytes(length)
    }
}

/// A client's connection, which reports to its [`Pace`] what moves.
pub(super) struct PacedStream {
    stream: TcpStream,
    pace: Arc<Pace>,
}

impl PacedStream {
    pub(super) fn new(stream: TcpStream, pace: Arc<Pace>) -> Self {
        Self { stream, pace }
    }

    fn note_write<T>(&self, outcome: Poll<T>) -> Poll<T> {
        self.pace.wrote(outcome.is_ready());
        outcome
    }
}

impl AsyncRead for PacedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.pace.bytes_came();
        }
        outcome
    }
}

impl AsyncWrite for PacedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note_write(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note_write(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

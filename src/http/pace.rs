//! What each connection waits for, and since when: the clock behind [`Limits`].

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::Version;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::server::Limits;

#[derive(Debug)]
pub(super) struct Pace {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    waiting_for: Awaited,
    since: Instant,
    in_flight: usize,
    multiplexed: bool,
    stalled_since: Option<Instant>,
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

impl Pace {
    pub(super) fn new(limits: Limits) -> Self {
        let state = State {
            waiting_for: Awaited::Head,
            since: Instant::now(),
            in_flight: 0,
            multiplexed: false,
            stalled_since: None,
        };
        Self { limits, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole before the lock is given back, whatever panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When our patience with the client ends.
    pub(super) fn due(&self) -> Option<Instant> {
        let state = self.state();
        let waiting = match state.waiting_for {
            Awaited::Head => Some(state.since + self.limits.header),
            Awaited::Request => Some(state.since + self.limits.idle),
            Awaited::Answer => None,
        };
        let stalled = state.stalled_since.map(|since| since + self.limits.stalled_write);
        [waiting, stalled].into_iter().flatten().min()
    }

    /// Whether the connection owes us nothing and can be closed politely; it has as long for that as for a head.
    pub(super) fn take_leave(&self) -> bool {
        let mut state = self.state();
        let idle = state.waiting_for == Awaited::Request && state.stalled_since.is_none();
        if idle {
            state.wait_for(Awaited::Head);
        }
        idle
    }

    /// A request whose head has come.
    pub(super) fn begin(self: &Arc<Self>, version: Version) -> InFlight {
        let mut state = self.state();
        state.in_flight += 1;
        state.waiting_for = Awaited::Answer;
        state.multiplexed = version == Version::HTTP_2;
        InFlight(Arc::clone(self))
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
}

/// A request between its head and the end of its answer.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Pace>);

impl InFlight {
    pub(super) fn until_the_end_of(self, body: Body) -> AnswerBody {
        AnswerBody { body, _in_flight: self }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.in_flight -= 1;
        if state.in_flight == 0 {
            state.wait_for(Awaited::Request);
        }
    }
}

/// An answer's body, which keeps its request in flight until it has been handed over.
pub(super) struct AnswerBody {
    body: Body,
    _in_flight: InFlight,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A client's connection, which tells its [`Pace`] what moves.
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

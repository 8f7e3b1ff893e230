//! One server process: started, listened to, signalled, and gone when we are gone.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::{oneshot, watch};

/// How many of the last log lines explain an end.
const REMEMBERED_LINES: usize = 20;

/// A postmaster that dies with this process.
#[derive(Debug)]
pub struct Server {
    pid: Pid,
    state: watch::Receiver<State>,
}

#[derive(Clone, Debug)]
enum State {
    Starting,
    Ready,
    /// With its last words.
    Ended(String),
}

impl Server {
    /// Starts `command`, which must log to its standard error in English. When this process dies, whichever way, the
    /// server gets `last_signal`.
    pub async fn spawn(mut command: Command, last_signal: Signal) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // A group of its own, or Ctrl-C in a terminal would stop the database before we have drained.
        command.process_group(0);
        die_with_us(&mut command, last_signal);

        let (spawned, outcome) = oneshot::channel();
        let (progress, state) = watch::channel(State::Starting);
        // The signal is sent when the thread that forked ends, so that thread stays until the server is gone.
        thread::Builder::new().name("postgres".to_owned()).spawn(move || {
            match command.spawn() {
                Ok(child) => {
                    // Without a receiver nobody waits any more; the server is then told to stop by `Drop`.
                    let _ = spawned.send(Ok(pid_of(&child)));
                    attend(child, &progress);
                }
                Err(error) => drop(spawned.send(Err(error))),
            }
        })?;
        let pid = outcome.await.map_err(io::Error::other)??;
        Ok(Self { pid, state })
    }

    /// Waits until connections are accepted; if the server ends instead, tells its last words.
    pub async fn ready(&mut self) -> Result<(), String> {
        match self.state.wait_for(|state| !matches!(state, State::Starting)).await.as_deref() {
            Ok(State::Ended(words)) => Err(words.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err("nobody attends to it".to_owned()),
        }
    }

    /// Waits until the server has ended, and tells its last words.
    pub async fn ended(&mut self) -> String {
        match self.state.wait_for(|state| matches!(state, State::Ended(_))).await.as_deref() {
            Ok(State::Ended(words)) => words.clone(),
            _ => String::new(),
        }
    }

    /// `SIGINT` is a fast shutdown, `SIGQUIT` an immediate one.
    pub fn signal(&self, signal: Signal) {
        if !matches!(*self.state.borrow(), State::Ended(_)) {
            // It may end in this very moment: then the signal is not needed.
            let _ = kill(self.pid, signal);
        }
    }

    /// Stops in good order, and less and less politely if that takes long. Nothing committed is lost in any case.
    pub async fn stop(mut self) {
        let steps = [(Signal::SIGINT, 20), (Signal::SIGQUIT, 5), (Signal::SIGKILL, 5)];
        for (signal, seconds) in steps {
            self.signal(signal);
            if tokio::time::timeout(Duration::from_secs(seconds), self.ended()).await.is_ok() {
                return;
            }
            tracing::warn!(%signal, "PostgreSQL has not stopped yet");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::SIGINT);
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().expect("the kernel's process ids are positive i32s"))
}

/// Passes the server's log on to ours until the server has ended.
fn attend(mut child: Child, progress: &watch::Sender<State>) {
    let mut last_lines = VecDeque::new();
    let mut log = child.stderr.take().map(BufReader::new);
    let mut line = Vec::new();
    let mut ready = false;
    while let Some(log) = &mut log
        && log.read_until(b'\n', &mut line).is_ok_and(|length| length > 0)
    {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        pass_on(&text, ready);
        if text.ends_with("database system is ready to accept connections") {
            ready = true;
            progress.send_replace(State::Ready);
        }
        if last_lines.len() == REMEMBERED_LINES {
            last_lines.pop_front();
        }
        last_lines.push_back(text);
    }
    let end = match child.wait() {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    last_lines.push_back(end);
    progress.send_replace(State::Ended(Vec::from(last_lines).join("\n")));
}

fn pass_on(line: &str, ready: bool) {
    // Why it does not start is told by whoever starts it, who may well try again.
    if ready && ["WARNING:", "ERROR:", "FATAL:", "PANIC:"].iter().any(|level| line.starts_with(level)) {
        tracing::warn!(target: "postgres", "{line}");
    } else {
        tracing::debug!(target: "postgres", "{line}");
    }
}

#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "between fork and exec only async-signal-safe calls are lawful: prctl and getppid are"
)]
pub(super) fn die_with_us(command: &mut Command, last_signal: Signal) {
    use nix::sys::prctl::set_pdeathsig;
    use nix::unistd::{getpid, getppid};

    let parent = getpid();
    // The standard library runs this after the change of uid, which would clear the signal.
    let ask_for_signal = move || {
        set_pdeathsig(last_signal)?;
        // If the parent died before the call above, no signal will come.
        if getppid() == parent { Ok(()) } else { Err(io::Error::from(io::ErrorKind::NotConnected)) }
    };
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(ask_for_signal);
    }
}

/// Elsewhere a server can survive us: the next start finds it and stops it first.
#[cfg(not(target_os = "linux"))]
pub(super) fn die_with_us(_command: &mut Command, _last_signal: Signal) {}

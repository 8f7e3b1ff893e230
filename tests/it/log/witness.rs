//! A witness, made of its specifications alone: <https://c2sp.org/tlog-witness> and <https://c2sp.org/tlog-cosignature>.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use consentd::tlog::note::{Algorithm, Note, Signature};
use consentd::tlog::tree::{Hash, empty_root, verify_consistency};
use consentd::tlog::{Checkpoint, VerifierKey};
use ed25519_dalek::Signer as _;
use tokio::net::TcpListener;

#[derive(Clone)]
pub struct Witness {
    pub key: VerifierKey,
    pub url: String,
    state: Arc<Mutex<Seen>>,
}

struct Seen {
    log: VerifierKey,
    signing: ed25519_dalek::SigningKey,
    name: String,
    /// Its signatures are wrong.
    broken: bool,
    size: u64,
    root: Hash,
    answers: Vec<u16>,
}

impl Witness {
    /// A witness of a log that is signed by this key.
    pub async fn start(name: &str, log: &VerifierKey, broken: bool) -> Self {
        let signing = ed25519_dalek::SigningKey::from_bytes(&[u8::from(broken) + 40; 32]);
        let public_key = signing.verifying_key().to_bytes();
        let key = VerifierKey::new(name, Algorithm::Cosignature, public_key).expect("a key");
        let seen = Seen {
            log: log.clone(),
            signing,
            name: name.to_owned(),
            broken,
            size: 0,
            root: empty_root(),
            answers: Vec::new(),
        };
        let state = Arc::new(Mutex::new(seen));
        let router =
            Router::new().route("/w/add-checkpoint", post(add_checkpoint)).with_state(Arc::clone(&state));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/w", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { key, url, state }
    }

    /// As the service is told of it.
    pub fn setting(&self) -> String {
        format!("{}@{}", self.key, self.url)
    }

    /// The status of each answer so far.
    pub fn answers(&self) -> Vec<u16> {
        self.state.lock().expect("nobody panicked").answers.clone()
    }

    pub fn size(&self) -> u64 {
        self.state.lock().expect("nobody panicked").size
    }
}

async fn add_checkpoint(State(state): State<Arc<Mutex<Seen>>>, body: String) -> Response {
    let mut seen = state.lock().expect("nobody panicked");
    let answer = seen.answer(&body).unwrap_or_else(IntoResponse::into_response);
    seen.answers.push(answer.status().as_u16());
    answer
}

impl Seen {
    fn answer(&mut self, body: &str) -> Result<Response, StatusCode> {
        let malformed = StatusCode::BAD_REQUEST;
        let (head, note) = body.split_once("\n\n").ok_or(malformed)?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old ")).ok_or(malformed)?;
        let size: u64 = old.parse().map_err(|_| malformed)?;
        let proof: Vec<Hash> = lines.map(str::parse).collect::<Result<_, _>>().map_err(|_| malformed)?;
        if size.to_string() != old || proof.len() > 63 {
            return Err(malformed);
        }
        let note = Note::parse(note).map_err(|_| malformed)?;
        let checkpoint = Checkpoint::parse(&note.text).map_err(|_| malformed)?;
        if checkpoint.origin != self.log.name() {
            return Err(StatusCode::NOT_FOUND);
        }
        note.verify(std::slice::from_ref(&self.log)).map_err(|_| StatusCode::FORBIDDEN)?;
        if size > checkpoint.size {
            return Err(malformed);
        }
        if size != self.size {
            let known = format!("{}\n", self.size);
            return Ok((StatusCode::CONFLICT, [(CONTENT_TYPE, "text/x.tlog.size")], known).into_response());
        }
        verify_consistency(size, checkpoint.size, &proof, self.root, checkpoint.root)
            .map_err(|_| StatusCode::UNPROCESSABLE_ENTITY)?;
        (self.size, self.root) = (checkpoint.size, checkpoint.root);
        Ok(format!("{}\n", self.cosign(&note.text)).into_response())
    }

    fn cosign(&self, text: &str) -> Signature {
        let key =
            VerifierKey::new(&self.name, Algorithm::Cosignature, self.signing.verifying_key().to_bytes());
        let time = 1_800_000_000_u64;
        let told = if self.broken { time + 1 } else { time };
        let signed = self.signing.sign(format!("cosignature/v1\ntime {time}\n{text}").as_bytes()).to_bytes();
        Signature {
            name: self.name.clone(),
            key_id: key.expect("a key").id(),
            bytes: [told.to_be_bytes().as_slice(), &signed].concat(),
        }
    }
}

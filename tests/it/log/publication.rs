//! Checkpoints leave the database, by the program as it is run.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use consentd::tlog::{Note, SigningKey};
use tokio::net::TcpListener;

use super::running::Running;
use super::witness::Witness;
use super::{ORIGIN, checkpoint, count, eventually, prove};
use crate::cluster::database;

/// Takes every note but the first one, which it refuses.
async fn webhook() -> (String, Arc<Mutex<Vec<String>>>) {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&taken);
    let router = Router::new().route(
        "/hook",
        post(async move |note: String| {
            let mut notes = notes.lock().expect("nobody panicked");
            notes.push(note);
            if notes.len() == 1 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::NO_CONTENT }
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, taken)
}

#[tokio::test]
async fn checkpoints_go_to_the_file_the_webhook_and_the_witnesses_and_come_back_cosigned() {
    let database = database().await;
    let data_dir = tempfile::tempdir().unwrap();
    let signing = SigningKey::from_seed([9; 32]);
    std::fs::write(data_dir.path().join("audit.key"), signing.to_pem()).unwrap();
    let log = signing.verifier_key(ORIGIN).unwrap();
    let good = Witness::start("witness.example/good", &log, false).await;
    let broken = Witness::start("witness.example/broken", &log, true).await;
    let (hook, taken) = webhook().await;
    let file = data_dir.path().join("published");
    let witnesses = [good.setting(), broken.setting()].join(",");
    let settings = [
        ("CONSENTD_AUDIT_CHECKPOINT_FILE", file.to_str().unwrap()),
        ("CONSENTD_AUDIT_CHECKPOINT_WEBHOOK", &hook),
        ("CONSENTD_AUDIT_WITNESSES", &witnesses),
    ];
    let running = Running::start(&database, data_dir.path(), &settings).await;
    let customer = running.customer("a@example.com").await;
    let audit_id = running.change(customer).await;

    let both = [log.clone(), good.key.clone()];
    let cosigned = async |running: &Running, size: u64| {
        eventually("the checkpoint is cosigned", async || {
            let note = Note::parse(&running.get("/v1/audit/log/checkpoint").await).unwrap();
            note.verify(&both).unwrap().len() == 2
                && checkpoint(&note.to_string(), std::slice::from_ref(&good.key)).size == size
        })
        .await;
    };
    cosigned(&running, 2).await;
    let proven = prove(&running.proof(audit_id).await, std::slice::from_ref(&good.key));
    assert_eq!(proven.checkpoint.verify(&both).unwrap().len(), 2);
    // The first note was refused, and what came of it was sent again.
    eventually("the webhook has the newest", async || {
        let notes = taken.lock().unwrap();
        notes.len() > 1 && checkpoint(notes.last().unwrap(), std::slice::from_ref(&log)).size == 2
    })
    .await;
    let metrics = running.get("/metrics").await;
    for place in ["webhook", "witness"] {
        let none = format!("consentd_audit_checkpoint_failures_total{{place=\"{place}\"}} 0");
        assert!(!metrics.contains(&none), "{metrics}");
    }
    running.says("the signature of witness.example/broken is wrong").await;
    running.stop().await;

    // The file: one note after the other, and what is there stays.
    let published = std::fs::read_to_string(&file).unwrap();
    let sizes = |text: &str| -> Vec<u64> {
        let notes = text.split_terminator("\n\n").collect::<Vec<_>>();
        notes
            .chunks(2)
            .map(|parts| {
                checkpoint(&format!("{}\n\n{}\n", parts[0], parts[1]), std::slice::from_ref(&log)).size
            })
            .collect()
    };
    let before = sizes(&published);
    assert!(before.is_sorted_by(|a, b| a < b) && before.last() == Some(&2), "{before:?}");

    // A replica that was started anew does not know what the witness has seen: the witness tells it.
    let conflicts = |witness: &Witness| witness.answers().iter().filter(|status| **status == 409).count();
    let so_far = conflicts(&good);
    let running = Running::start(&database, data_dir.path(), &settings).await;
    running.change(customer).await;
    cosigned(&running, 3).await;
    assert!(conflicts(&good) > so_far, "{:?}", good.answers());
    assert!(good.answers().iter().all(|status| [200, 409].contains(status)), "{:?}", good.answers());
    assert_eq!(good.size(), 3);
    running.stop().await;
    let again = std::fs::read_to_string(&file).unwrap();
    assert!(again.starts_with(&published));
    assert_eq!(sizes(&again).last(), Some(&3));

    let pool = sqlx::PgPool::connect_with(database.owner.clone()).await.unwrap();
    assert!(broken.answers().contains(&200));
    assert_eq!(count(&pool, "vlaapi.audit_cosignatures where witness <> 'witness.example/good'").await, 0);
}

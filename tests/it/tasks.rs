//! Background tasks that panic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use consentd::app::tasks::Tasks;
use consentd::health::Health;
use tokio::time::timeout;

#[tokio::test]
async fn a_background_task_that_panics_restarts_and_is_named() {
    let health = Arc::new(Health::default());
    let tasks = Tasks::new(&health);
    let runs = Arc::new(AtomicU32::new(0));
    tasks.spawn("fragile", Arc::clone(&runs), |runs, stop| async move {
        let run = runs.fetch_add(1, Ordering::Relaxed);
        assert!(run >= 2, "the first two runs panic");
        stop.cancelled().await;
    });
    let restarted = async {
        while runs.load(Ordering::Relaxed) < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), restarted).await.expect("the task restarts");
    assert_eq!(health.panicked_tasks(), ["fragile"]);
    assert_eq!(health.panics(), [("fragile", 2)]);
    tasks.finish().await;
}

#[tokio::test]
async fn a_background_task_that_waits_to_restart_stops_at_once() {
    let tasks = Tasks::new(&Arc::new(Health::default()));
    tasks.spawn("broken", (), |(), _| async { panic!("always") });
    timeout(Duration::from_secs(30), tasks.finish()).await.expect("the tasks stop");
}

//! `kill -9` at any moment: what was acknowledged is there after a restart, searchable, with unique
//! and consecutive revisions; nothing half-done is visible (DESIGN I1 to I3).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rand::{Rng, SeedableRng};

use crate::harness::Server;
use crate::history::{History, check, try_upload};

const UPLOADS: usize = 100;
const KILLS: usize = 50;
const WRITERS: usize = 8;
const PROJECTS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost() {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut server = Server::start().await;
    let history: History = Arc::default();
    let mut next = 0;
    let mut kills = 0;
    let acknowledged = |history: &History| -> usize {
        let history = history.lock().unwrap();
        history.values().map(BTreeSet::len).sum()
    };
    // A slow machine gets less done between two kills, and more of those.
    while kills < KILLS || acknowledged(&history) < UPLOADS {
        assert!(kills < 20 * KILLS, "hardly anything is uploaded");
        let (url, token) = (server.url.clone(), server.token.clone());
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (http, url, token, history) = (
                    server.http.clone(),
                    url.clone(),
                    token.clone(),
                    history.clone(),
                );
                let first = next + writer;
                tokio::spawn(async move {
                    // A writer goes on until the server dies under it.
                    for number in (0..1000).map(|round| first + round * WRITERS) {
                        let (project, version) =
                            (format!("P{}", number % PROJECTS), format!("v{number}"));
                        match try_upload(&http, &url, &token, &project, &version).await {
                            Ok(true) => {
                                history
                                    .lock()
                                    .unwrap()
                                    .entry(project)
                                    .or_default()
                                    .insert(version);
                            }
                            Ok(false) => {}
                            Err(_) => return number,
                        }
                    }
                    first
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(random.random_range(5..160))).await;
        server.kill();
        kills += 1;
        let ended = futures::future::join_all(writers).await;
        next = ended
            .into_iter()
            .map(|writer| writer.unwrap())
            .max()
            .unwrap_or(next)
            + WRITERS;
        // Names start at a multiple of the writers, so that no name is used twice.
        next = next.next_multiple_of(WRITERS * PROJECTS);
        server.restart().await;
        check(&server, &history).await;
    }
    let acknowledged = acknowledged(&history);
    println!("{kills} kills, {next} names tried, {acknowledged} versions acknowledged");
    server.terminate();
    server.restart().await;
    check(&server, &history).await;
}

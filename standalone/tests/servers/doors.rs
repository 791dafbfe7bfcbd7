//! The doors of leases and tasks: what the one process and Redis both must do, and what only a
//! server can be asked.

use std::sync::Arc;
use std::time::Duration;

use artifactdb::lease::EmbeddedLease;
use artifactdb::queue::EmbeddedQueue;
use artifactdb_core::clock::{Clock, SystemClock};
use artifactdb_core::id::{Project, Version};
use artifactdb_core::lease::{Holder, Lease, LeaseError, LeaseKey};
use artifactdb_core::queue::{Delivery, JobStatus, Priority, Queue, Task};
use artifactdb_core::redis::{Redis, RedisLease, RedisQueue};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::real::services;

/// A part of Redis that nobody else has.
fn redis() -> Redis {
    let name = format!("doors/{:016x}", rand::random::<u64>());
    Redis::new(&services().redis, None, &name).unwrap()
}

fn leases() -> [Arc<dyn Lease>; 2] {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    [
        Arc::new(EmbeddedLease::new(clock.clone())),
        Arc::new(RedisLease::new(redis(), clock)),
    ]
}

fn queues() -> [Arc<dyn Queue>; 2] {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    [
        Arc::new(EmbeddedQueue::new(clock.clone())),
        Arc::new(RedisQueue::new(redis(), clock)),
    ]
}

fn key(project: &str, version: Option<&str>) -> LeaseKey {
    LeaseKey {
        project: Project::new(project).unwrap(),
        version: version.map(|version| Version::new(version).unwrap()),
    }
}

fn holder() -> Holder {
    Holder {
        owner: "ann: \"the\" uploader \u{1F427}".into(),
        stage: "uploading".into(),
        info: None,
    }
}

fn soon() -> Timestamp {
    SystemClock.now() + SignedDuration::from_mins(1)
}

#[tokio::test]
async fn a_project_lease_excludes_its_versions_and_the_other_way_round() {
    for lease in leases() {
        let one = lease
            .acquire(&key("P", Some("1")), holder(), soon())
            .await
            .unwrap();
        lease
            .acquire(&key("P", Some("2")), holder(), soon())
            .await
            .unwrap();
        lease
            .acquire(&key("Q", None), holder(), soon())
            .await
            .unwrap();
        for wanted in [key("P", Some("1")), key("P", None)] {
            let error = lease.acquire(&wanted, holder(), soon()).await.unwrap_err();
            let LeaseError::Held(record) = error else {
                panic!("{error}")
            };
            assert_eq!(record.key.project.as_str(), "P");
            assert_eq!(record.holder, holder());
            let left = record.expires.duration_since(record.created).as_secs();
            assert!((59..=61).contains(&left), "{left}");
        }
        let records = lease.of_project(&Project::new("P").unwrap()).await.unwrap();
        let keys: Vec<LeaseKey> = records.into_iter().map(|record| record.key).collect();
        assert_eq!(keys, [key("P", Some("1")), key("P", Some("2"))]);
        let all = lease.all().await.unwrap();
        assert_eq!(all.len(), 3);

        let wrong = lease.release(&key("P", Some("1")), "not the token").await;
        assert!(!wrong.unwrap());
        assert!(lease.release(&key("P", Some("1")), &one).await.unwrap());
        assert!(!lease.release(&key("P", Some("1")), &one).await.unwrap());
        let expired = lease.expire(&key("P", Some("2"))).await.unwrap().unwrap();
        assert_eq!(expired.holder, holder());
        assert!(lease.expire(&key("P", Some("2"))).await.unwrap().is_none());
        lease
            .acquire(&key("P", None), holder(), soon())
            .await
            .unwrap();
        let error = lease.acquire(&key("P", Some("3")), holder(), soon()).await;
        assert!(matches!(error, Err(LeaseError::Held(_))));
        assert_eq!(lease.all().await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn an_expired_lease_is_free_and_cannot_be_renewed() {
    for lease in leases() {
        let past = SystemClock.now() - SignedDuration::from_secs(1);
        let token = lease
            .acquire(&key("P", None), holder(), past)
            .await
            .unwrap();
        assert!(
            !lease
                .renew(&key("P", None), &token, "x", soon())
                .await
                .unwrap()
        );
        assert!(lease.all().await.unwrap().is_empty());
        let second = lease
            .acquire(&key("P", None), holder(), soon())
            .await
            .unwrap();
        assert!(!lease.release(&key("P", None), &token).await.unwrap());
        let later = SystemClock.now() + SignedDuration::from_mins(5);
        let own = key("P", None);
        let renewed = lease.renew(&own, &second, "completed", later);
        assert!(renewed.await.unwrap());
        let records = lease.of_project(&Project::new("P").unwrap()).await.unwrap();
        assert_eq!(records[0].holder.stage, "completed");
        assert_eq!(records[0].holder.owner, holder().owner);
        assert!(records[0].expires > SystemClock.now() + SignedDuration::from_mins(4));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_gets_a_lease() {
    for lease in leases() {
        for round in 0..20 {
            let tries = (0..32).map(|number| {
                let lease = lease.clone();
                // A quarter of them wants the whole project.
                let version = (number % 4 != 0).then(|| "1".to_owned());
                let project = format!("P{round}");
                tokio::spawn(async move {
                    let key = key(&project, version.as_deref());
                    lease.acquire(&key, holder(), soon()).await.is_ok()
                })
            });
            let won = futures::future::join_all(tries).await;
            let won = won.into_iter().filter(|won| *won.as_ref().unwrap()).count();
            assert_eq!(won, 1);
        }
    }
}

/// A lease's end is counted by the server: a process whose clock is off takes leases as long as
/// those of others.
#[tokio::test]
async fn a_wrong_clock_shortens_and_lengthens_no_lease() {
    struct Off(SignedDuration);
    impl Clock for Off {
        fn now(&self) -> Timestamp {
            Timestamp::now() + self.0
        }
    }
    for minutes in [-10, 10] {
        let redis = redis();
        let off: Arc<dyn Clock> = Arc::new(Off(SignedDuration::from_mins(minutes)));
        let wrong = RedisLease::new(redis.clone(), off.clone());
        let right = RedisLease::new(redis, Arc::new(SystemClock));
        let expires = off.now() + SignedDuration::from_mins(1);
        let token = wrong
            .acquire(&key("P", None), holder(), expires)
            .await
            .unwrap();
        let error = right.acquire(&key("P", Some("1")), holder(), soon()).await;
        let Err(LeaseError::Held(record)) = error else {
            panic!("{error:?}")
        };
        let left = record.expires.duration_since(Timestamp::now()).as_secs();
        assert!((50..=61).contains(&left), "{minutes}: {left}");
        assert!(right.release(&key("P", None), &token).await.unwrap());
    }
}

fn task(tick: u64) -> Task {
    Task::Permissions {
        project: Project::new("P").unwrap(),
        tick,
    }
}

async fn next(queue: &dyn Queue) -> Delivery {
    tokio::time::timeout(Duration::from_secs(10), queue.next())
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn priorities_duplicates_retries_and_records() {
    for queue in queues() {
        let status = async |tick| queue.job(&task(tick)).await.unwrap().unwrap().status;
        assert_eq!(queue.job(&task(1)).await.unwrap(), None);
        assert_eq!(queue.depth().await.unwrap(), (0, 0));
        queue.enqueue(task(1), Priority::Bulk).await.unwrap();
        queue.enqueue(task(1), Priority::Bulk).await.unwrap();
        queue.enqueue(task(2), Priority::Interactive).await.unwrap();
        queue.enqueue(task(3), Priority::Maintenance).await.unwrap();
        assert_eq!(queue.depth().await.unwrap(), (3, 0));
        assert_eq!(status(1).await, JobStatus::Pending);
        let first = next(&*queue).await;
        assert_eq!((first.task.clone(), first.attempt), (task(2), 1));
        assert_eq!(status(2).await, JobStatus::Started);
        // Added while it is in hand: it is done once more, and its record goes on.
        queue.enqueue(task(2), Priority::Interactive).await.unwrap();
        assert_eq!(status(2).await, JobStatus::Started);
        assert_eq!(queue.depth().await.unwrap(), (3, 1));
        let again = next(&*queue).await;
        assert_eq!(again.task, task(2));
        queue.finish(&again, Ok(json!({}))).await.unwrap();
        let delay = Duration::from_millis(300);
        queue.retry(&first, "away", delay).await.unwrap();
        assert_eq!(status(2).await, JobStatus::Retry);
        let second = next(&*queue).await;
        assert_eq!(second.task, task(1));
        queue.finish(&second, Err("broken".into())).await.unwrap();
        let record = queue.job(&task(1)).await.unwrap().unwrap();
        assert_eq!(
            (record.status, record.error.as_deref()),
            (JobStatus::Failure, Some("broken"))
        );
        assert!(record.done.is_some());
        let third = next(&*queue).await;
        assert_eq!(third.task, task(3));
        let fourth = next(&*queue).await;
        assert_eq!((fourth.task.clone(), fourth.attempt), (task(2), 2));
        queue.finish(&fourth, Ok(json!({"n": 1}))).await.unwrap();
        queue.hold(&third).await.unwrap();
        queue.finish(&third, Ok(json!({}))).await.unwrap();
        let record = queue.job(&task(2)).await.unwrap().unwrap();
        assert_eq!(
            (record.status, record.result),
            (JobStatus::Success, json!({"n": 1}))
        );
        assert_eq!(queue.depth().await.unwrap(), (0, 0));
        let dead = queue.dead(10).await.unwrap();
        assert_eq!(dead.len(), 1);
        assert_eq!(
            (&dead[0].task, dead[0].error.as_str(), dead[0].attempts),
            (&task(1), "broken", 1)
        );
    }
}

#[tokio::test]
async fn whoever_waits_is_woken() {
    for queue in queues() {
        let waiting = {
            let queue = queue.clone();
            tokio::spawn(async move { next(&*queue).await })
        };
        tokio::time::sleep(Duration::from_millis(200)).await;
        let added = std::time::Instant::now();
        queue.enqueue(task(1), Priority::Maintenance).await.unwrap();
        assert_eq!(waiting.await.unwrap().task, task(1));
        assert!(added.elapsed() < Duration::from_secs(1), "it polled");
    }
}

/// Every task is done once where no worker dies, whatever the number of workers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_share_the_tasks() {
    for queue in queues() {
        for tick in 0..200 {
            let priority = Priority::ALL[usize::try_from(tick % 3).unwrap()];
            queue.enqueue(task(tick), priority).await.unwrap();
        }
        let done = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let workers = (0..8).map(|_| {
            let (queue, done) = (queue.clone(), done.clone());
            tokio::spawn(async move {
                loop {
                    let delivery = next(&*queue).await;
                    queue.finish(&delivery, Ok(json!({}))).await.unwrap();
                    let mut done = done.lock();
                    done.push(delivery.task);
                    if done.len() >= 200 {
                        return;
                    }
                }
            })
        });
        let workers: Vec<_> = workers.collect();
        while done.lock().len() < 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for worker in workers {
            worker.abort();
        }
        let mut done = done.lock().clone();
        assert_eq!(done.len(), 200);
        done.sort_by_key(|task| format!("{task:?}"));
        done.dedup();
        assert_eq!(done.len(), 200);
    }
}

#[tokio::test]
async fn the_task_of_a_dead_worker_is_taken_over_and_in_the_end_given_up() {
    let redis = redis();
    let worker =
        |silent| RedisQueue::new(redis.clone(), Arc::new(SystemClock)).with_silence(silent);
    let first = worker(Duration::from_secs(60));
    first.enqueue(task(1), Priority::Bulk).await.unwrap();
    let taken = next(&first).await;
    // While it says that it has the task, nobody takes it.
    let second = worker(Duration::from_millis(400));
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        first.hold(&taken).await.unwrap();
        let none = tokio::time::timeout(Duration::from_millis(50), second.next()).await;
        assert!(none.is_err());
    }
    let over = next(&second).await;
    assert_eq!((over.task.clone(), over.attempt), (task(1), 2));
    // Who was thought dead does not take it back, and ends nothing that is not its own.
    first.hold(&taken).await.unwrap();
    let third = worker(Duration::from_millis(1));
    let mut attempts = vec![over.attempt];
    loop {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let taken = tokio::time::timeout(Duration::from_millis(300), third.next()).await;
        let Ok(taken) = taken else { break };
        attempts.push(taken.unwrap().attempt);
    }
    assert_eq!(attempts, (2..=10).collect::<Vec<u32>>());
    let dead = third.dead(5).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert!(dead[0].error.contains("died 10 times"), "{:?}", dead[0]);
    let record = third.job(&task(1)).await.unwrap().unwrap();
    assert_eq!(record.status, JobStatus::Failure);
    assert_eq!(third.depth().await.unwrap(), (0, 0));
    // It may be asked for again.
    third.enqueue(task(1), Priority::Bulk).await.unwrap();
    assert_eq!(next(&third).await.attempt, 1);
}

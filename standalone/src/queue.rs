//! The task queue of one process: the same door as Redis, in memory. What a crash loses, the
//! sweeper finds again in the store.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use artifactdb_core::clock::Clock;
use artifactdb_core::queue::{Delivery, JobRecord, JobStatus, Priority, Queue, QueueError, Task};
use async_trait::async_trait;
use moka::sync::Cache;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long the record of a finished job is kept, and how many.
const RECORD_LIFE: Duration = Duration::from_secs(24 * 3600);
const RECORDS: u64 = 100_000;

pub struct EmbeddedQueue {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    added: Notify,
    records: Cache<Task, JobRecord>,
}

#[derive(Default)]
struct State {
    waiting: [VecDeque<(Task, u32)>; 3],
    /// Tasks that wait or are delayed: a second one is not added.
    known: HashSet<Task>,
    delayed: Vec<(Instant, Priority, Task, u32)>,
    /// By receipt. A worker of this process that dies takes the process with it.
    in_hand: HashMap<u64, Task>,
    receipts: u64,
}

impl EmbeddedQueue {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            state: Mutex::new(State::default()),
            added: Notify::new(),
            records: Cache::builder()
                .max_capacity(RECORDS)
                .time_to_live(RECORD_LIFE)
                .build(),
        }
    }

    fn record(&self, task: &Task, status: JobStatus, result: Value, error: Option<String>) {
        let ended = matches!(status, JobStatus::Success | JobStatus::Failure);
        let record = JobRecord {
            status,
            result,
            error,
            done: ended.then(|| self.clock.now()),
        };
        self.records.insert(task.clone(), record);
    }

    fn take(&self) -> Result<Delivery, Option<Instant>> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut state.delayed)
            .into_iter()
            .partition(|(at, ..)| *at <= now);
        state.delayed = later;
        for (_, priority, task, attempts) in due {
            state.waiting[priority as usize].push_back((task, attempts));
        }
        for priority in [Priority::Interactive, Priority::Bulk, Priority::Maintenance] {
            if let Some((task, attempts)) = state.waiting[priority as usize].pop_front() {
                state.known.remove(&task);
                state.receipts += 1;
                let receipt = state.receipts;
                state.in_hand.insert(receipt, task.clone());
                return Ok(Delivery {
                    receipt,
                    task,
                    priority,
                    attempt: attempts + 1,
                });
            }
        }
        Err(state.delayed.iter().map(|(at, ..)| *at).min())
    }
}

#[async_trait]
impl Queue for EmbeddedQueue {
    async fn enqueue(&self, task: Task, priority: Priority) -> Result<(), QueueError> {
        {
            let mut state = self.state.lock();
            if !state.known.insert(task.clone()) {
                return Ok(());
            }
            if !state.in_hand.values().any(|own| *own == task) {
                self.record(&task, JobStatus::Pending, json!({}), None);
            }
            state.waiting[priority as usize].push_back((task, 0));
        }
        self.added.notify_one();
        Ok(())
    }

    async fn next(&self) -> Result<Delivery, QueueError> {
        loop {
            let added = self.added.notified();
            match self.take() {
                Ok(delivery) => {
                    self.record(&delivery.task, JobStatus::Started, json!({}), None);
                    // Another worker may have slept through a second task.
                    self.added.notify_one();
                    return Ok(delivery);
                }
                Err(None) => added.await,
                Err(Some(due)) => {
                    tokio::select! {
                        () = added => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
            }
        }
    }

    async fn finish(
        &self,
        delivery: &Delivery,
        outcome: Result<Value, String>,
    ) -> Result<(), QueueError> {
        self.state.lock().in_hand.remove(&delivery.receipt);
        match outcome {
            Ok(result) => self.record(&delivery.task, JobStatus::Success, result, None),
            Err(error) => self.record(&delivery.task, JobStatus::Failure, json!({}), Some(error)),
        }
        Ok(())
    }

    async fn retry(
        &self,
        delivery: &Delivery,
        error: &str,
        delay: Duration,
    ) -> Result<(), QueueError> {
        {
            let mut state = self.state.lock();
            state.in_hand.remove(&delivery.receipt);
            if state.known.insert(delivery.task.clone()) {
                state.delayed.push((
                    Instant::now() + delay,
                    delivery.priority,
                    delivery.task.clone(),
                    delivery.attempt,
                ));
            }
        }
        let error = Some(error.to_owned());
        self.record(&delivery.task, JobStatus::Retry, json!({}), error);
        self.added.notify_one();
        Ok(())
    }

    async fn job(&self, task: &Task) -> Result<Option<JobRecord>, QueueError> {
        Ok(self.records.get(task))
    }

    async fn depth(&self) -> Result<(usize, usize), QueueError> {
        let state = self.state.lock();
        let waiting = state.waiting.iter().map(VecDeque::len).sum::<usize>();
        Ok((waiting + state.delayed.len(), state.in_hand.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use artifactdb_core::clock::SystemClock;
    use artifactdb_core::id::Project;

    fn task(tick: u64) -> Task {
        Task::Permissions {
            project: Project::new("P").unwrap(),
            tick,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn priorities_duplicates_retries_and_records() {
        let queue = EmbeddedQueue::new(Arc::new(SystemClock));
        queue.enqueue(task(1), Priority::Bulk).await.unwrap();
        queue.enqueue(task(1), Priority::Bulk).await.unwrap();
        queue.enqueue(task(2), Priority::Interactive).await.unwrap();
        assert_eq!(queue.depth().await.unwrap(), (2, 0));
        let first = queue.next().await.unwrap();
        assert_eq!((first.task.clone(), first.attempt), (task(2), 1));
        queue
            .retry(&first, "away", Duration::from_secs(5))
            .await
            .unwrap();
        let status = queue.job(&task(2)).await.unwrap().unwrap().status;
        assert_eq!(status, JobStatus::Retry);
        let second = queue.next().await.unwrap();
        assert_eq!(second.task, task(1));
        queue.finish(&second, Err("broken".into())).await.unwrap();
        let again = queue.next().await.unwrap();
        assert_eq!((again.task.clone(), again.attempt), (task(2), 2));
        queue.finish(&again, Ok(json!(1))).await.unwrap();
        let record = queue.job(&task(2)).await.unwrap().unwrap();
        assert_eq!(
            (record.status, record.result),
            (JobStatus::Success, json!(1))
        );
        assert_eq!(queue.depth().await.unwrap(), (0, 0));
    }
}

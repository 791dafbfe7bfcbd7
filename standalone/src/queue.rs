//! The task queue of one process: the same door as Redis, in memory. What a crash loses, the
//! sweeper finds again in the store.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use artifactdb_core::clock::Clock;
use artifactdb_core::queue::{
    DeadLetter, Delivery, JobRecord, JobStatus, Priority, Queue, QueueError, Task,
};
use async_trait::async_trait;
use moka::sync::Cache;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long the record of a finished job is kept, and how many.
const RECORD_LIFE: Duration = Duration::from_secs(24 * 3600);
const RECORDS: u64 = 100_000;
/// Tasks given up that are remembered.
const DEAD: usize = 1000;

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
    in_hand: HashMap<String, Task>,
    receipts: u64,
    dead: VecDeque<DeadLetter>,
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
        for priority in Priority::ALL {
            if let Some((task, attempts)) = state.waiting[priority as usize].pop_front() {
                state.known.remove(&task);
                state.receipts += 1;
                let receipt = state.receipts.to_string();
                state.in_hand.insert(receipt.clone(), task.clone());
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

    /// Whoever has a task dies with this process, and the queue with them.
    async fn hold(&self, _: &Delivery) -> Result<(), QueueError> {
        Ok(())
    }

    async fn finish(
        &self,
        delivery: &Delivery,
        outcome: Result<Value, String>,
    ) -> Result<(), QueueError> {
        let mut state = self.state.lock();
        state.in_hand.remove(&delivery.receipt);
        match outcome {
            Ok(result) => self.record(&delivery.task, JobStatus::Success, result, None),
            Err(error) => {
                state.dead.truncate(DEAD - 1);
                state.dead.push_front(DeadLetter {
                    task: delivery.task.clone(),
                    error: error.clone(),
                    attempts: delivery.attempt,
                    at: self.clock.now(),
                });
                self.record(&delivery.task, JobStatus::Failure, json!({}), Some(error));
            }
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

    async fn dead(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let state = self.state.lock();
        Ok(state.dead.iter().take(limit).cloned().collect())
    }

    async fn forget_dead(&self) -> Result<(), QueueError> {
        self.state.lock().dead.clear();
        Ok(())
    }

    async fn depth(&self) -> Result<(usize, usize), QueueError> {
        let state = self.state.lock();
        let waiting = state.waiting.iter().map(VecDeque::len).sum::<usize>();
        Ok((waiting + state.delayed.len(), state.in_hand.len()))
    }
}

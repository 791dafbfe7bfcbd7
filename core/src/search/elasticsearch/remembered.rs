//! First pages that are asked for again and again: the engine is asked which documents they hold
//! now, and not for the documents themselves when those are the ones from before.
//!
//! A hit's sequence number and primary term name one write of one document in a shard, so what is
//! answered from memory is what the engine would answer. A search that comes once costs nothing; the
//! second time it is remembered, and from the third time on it is compared.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::search::Document;

/// An index that was deleted and made again under its name counts its writes from the start.
const LIFE: Duration = Duration::from_secs(60);
/// Bytes of requests and documents at the most.
const CAPACITY: u64 = 8 * 1024 * 1024;
/// Pages above this are not remembered.
const PAGE_MAX: usize = 512 * 1024;

/// What names one write of a document.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Place<'a> {
    #[serde(borrow, rename = "_index")]
    pub index: Cow<'a, str>,
    /// Absent where it was not asked for.
    #[serde(borrow, default, rename = "_id")]
    pub id: Option<Cow<'a, str>>,
    #[serde(rename = "_seq_no")]
    pub sequence: i64,
    #[serde(rename = "_primary_term")]
    pub term: i64,
}

/// The documents of a page, in order.
pub(super) struct KnownPage {
    /// With their ids.
    pub places: Vec<Place<'static>>,
    pub documents: Vec<Arc<Document>>,
    /// Whether there is one shard only: its sequence numbers are then those of the index, and
    /// reading the ids, which costs the most, can be left out.
    pub one_shard: bool,
}

impl KnownPage {
    /// Adds to a search for what the page needs that it asks for these places and nothing else.
    pub fn ask(&self, body: &mut Value) {
        body["_source"] = json!(false);
        if self.one_shard {
            body["stored_fields"] = json!("_none_");
        }
    }

    /// Whether these are the hits of the page, as `shards` shards have them now.
    pub fn holds(&self, hits: &[Place<'_>], shards: u64) -> bool {
        let same = |(known, now): (&Place<'_>, &Place<'_>)| {
            (self.one_shard || known.id == now.id)
                && (known.sequence, known.term) == (now.sequence, now.term)
                && known.index == now.index
        };
        (shards == 1 || !self.one_shard)
            && hits.len() == self.places.len()
            && self.places.iter().zip(hits).all(same)
    }

    pub fn ids(&self) -> impl ExactSizeIterator<Item = &str> {
        self.places
            .iter()
            .map(|place| place.id.as_deref().unwrap_or_default())
    }
}

#[derive(Clone)]
pub(super) enum Memory {
    /// It was asked once.
    Seen,
    Known(Arc<KnownPage>),
}

pub(super) struct Remembered(Cache<String, Memory>);

impl Remembered {
    pub fn new() -> Self {
        let weight = |request: &String, memory: &Memory| {
            let documents = match memory {
                Memory::Seen => 0,
                Memory::Known(page) => page
                    .documents
                    .iter()
                    .map(|document| document.body.len() + 256)
                    .sum(),
            };
            u32::try_from(request.len() + documents + 64).unwrap_or(u32::MAX)
        };
        Self(
            Cache::builder()
                .max_capacity(CAPACITY)
                .weigher(weight)
                .time_to_live(LIFE)
                .build(),
        )
    }

    /// What is known of a request, by its whole text.
    pub fn get(&self, request: &str) -> Option<Memory> {
        self.0.get(request)
    }

    pub fn saw(&self, request: String) {
        self.0.insert(request, Memory::Seen);
    }

    pub fn know(&self, request: String, page: KnownPage) {
        let bytes: usize = page.documents.iter().map(|own| own.body.len()).sum();
        if bytes <= PAGE_MAX {
            self.0.insert(request, Memory::Known(Arc::new(page)));
        }
    }
}

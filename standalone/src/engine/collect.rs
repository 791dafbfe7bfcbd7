//! Collectors: one page of hits in order with the exact total, the highest revision of each
//! project, and the values of a field.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};
use tantivy::collector::{Collector, SegmentCollector};
use tantivy::columnar::{Column, ColumnType, StrColumn};
use tantivy::{DocAddress, DocId, Score, SegmentOrdinal, SegmentReader, TantivyError};

/// One value of a sort key, comparable between segments.
#[derive(Debug, Clone, PartialEq)]
pub enum SortValue {
    /// Sorts last in both directions.
    Missing,
    /// A number in its order-preserving form.
    Number(u64),
    Text(String),
}

impl SortValue {
    pub fn to_json(&self) -> Value {
        match self {
            SortValue::Missing => Value::Null,
            SortValue::Number(number) => json!(number),
            SortValue::Text(text) => json!(text),
        }
    }

    pub fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(SortValue::Missing),
            Value::Number(number) => number.as_u64().map(SortValue::Number),
            Value::String(text) => Some(SortValue::Text(text.clone())),
            _ => None,
        }
    }
}

/// What to sort by.
#[derive(Debug, Clone)]
pub enum SortColumn {
    /// By relevance, best first.
    Score,
    Field {
        name: String,
        descending: bool,
    },
}

impl SortColumn {
    fn is_descending(&self) -> bool {
        match self {
            SortColumn::Score => true,
            SortColumn::Field { descending, .. } => *descending,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Hit {
    pub key: Vec<SortValue>,
    pub address: DocAddress,
}

fn compare(columns: &[SortColumn], a: &Hit, b: &Hit) -> Ordering {
    for ((column, left), right) in columns.iter().zip(&a.key).zip(&b.key) {
        let order = match (left, right) {
            (SortValue::Missing, SortValue::Missing) => Ordering::Equal,
            (SortValue::Missing, _) => Ordering::Greater,
            (_, SortValue::Missing) => Ordering::Less,
            (SortValue::Number(x), SortValue::Number(y)) => directed(column, x.cmp(y)),
            (SortValue::Text(x), SortValue::Text(y)) => directed(column, x.cmp(y)),
            _ => Ordering::Equal,
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    a.address.cmp(&b.address)
}

fn directed(column: &SortColumn, order: Ordering) -> Ordering {
    if column.is_descending() {
        order.reverse()
    } else {
        order
    }
}

/// The highest revision of each project among some documents.
pub type Latest = Arc<HashMap<String, u64>>;

/// Fields that the `latest` filter reads.
#[derive(Debug, Clone)]
pub struct LatestFields {
    pub project: String,
    pub revision: String,
}

/// Collects the first `limit` hits after `after`, and counts all.
pub struct PageCollector {
    pub columns: Vec<SortColumn>,
    pub limit: usize,
    pub after: Option<Hit>,
    pub latest: Option<(LatestFields, Latest)>,
}

enum SegmentColumn {
    Score,
    Absent,
    Number(Column<u64>),
    Text(Column<u64>, StrColumn),
}

pub struct PageSegment {
    columns: Vec<(SegmentColumn, bool)>,
    ordinal: SegmentOrdinal,
    limit: usize,
    /// The key of the cursor in this segment's terms.
    after: Option<(Vec<u64>, DocAddress)>,
    latest: Option<LatestSegment>,
    total: u64,
    /// The best so far; cut back to `limit` when it has doubled.
    hits: Vec<(Vec<u64>, DocId)>,
    worst: Option<(Vec<u64>, DocId)>,
}

/// Ranks absent values last, whatever the direction.
const LAST: u64 = u64::MAX;

impl PageSegment {
    fn rank(&self, doc: DocId, score: Score) -> Vec<u64> {
        self.columns
            .iter()
            .map(|(column, descending)| {
                let value = match column {
                    SegmentColumn::Score => Some(u64::from(score.max(0.0).to_bits())),
                    SegmentColumn::Absent => None,
                    SegmentColumn::Number(column) => extreme(column, doc, *descending),
                    // Doubled, so that a term that this segment lacks has a place between two.
                    SegmentColumn::Text(column, _) => {
                        extreme(column, doc, *descending).map(|term| 2 * term + 1)
                    }
                };
                value.map_or(LAST, |value| {
                    if *descending {
                        (!value).saturating_sub(1)
                    } else {
                        value.min(LAST - 1)
                    }
                })
            })
            .collect()
    }

    fn cut(&mut self) {
        self.hits.sort_unstable();
        self.hits.truncate(self.limit);
        if self.hits.len() == self.limit {
            self.worst = self.hits.last().cloned();
        }
    }
}

/// The value that sorts a document with several: the least ascending, the greatest descending.
fn extreme(column: &Column<u64>, doc: DocId, descending: bool) -> Option<u64> {
    let values = column.values_for_doc(doc);
    if descending {
        values.max()
    } else {
        values.min()
    }
}

fn number_column(reader: &SegmentReader, name: &str) -> tantivy::Result<Option<Column<u64>>> {
    let types = [ColumnType::I64, ColumnType::F64, ColumnType::U64];
    let found = reader
        .fast_fields()
        .u64_lenient_for_type(Some(&types), name)?;
    Ok(found.map(|(column, _)| column))
}

fn text_column(
    reader: &SegmentReader,
    name: &str,
) -> tantivy::Result<Option<(Column<u64>, StrColumn)>> {
    let Some(terms) = reader.fast_fields().str(name)? else {
        return Ok(None);
    };
    Ok(Some((terms.ords().clone(), terms)))
}

impl Collector for PageCollector {
    type Fruit = (Vec<Hit>, u64);
    type Child = PageSegment;

    fn for_segment(
        &self,
        ordinal: SegmentOrdinal,
        reader: &SegmentReader,
    ) -> tantivy::Result<PageSegment> {
        let mut columns = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            let own = match column {
                SortColumn::Score => SegmentColumn::Score,
                SortColumn::Field { name, .. } => match text_column(reader, name)? {
                    Some((column, terms)) => SegmentColumn::Text(column, terms),
                    None => number_column(reader, name)?
                        .map_or(SegmentColumn::Absent, SegmentColumn::Number),
                },
            };
            columns.push((own, column.is_descending()));
        }
        let after = match &self.after {
            None => None,
            Some(hit) => {
                let mut ranks = Vec::with_capacity(hit.key.len());
                for ((column, descending), value) in columns.iter().zip(&hit.key) {
                    let own = match (value, column) {
                        (SortValue::Missing, _) => None,
                        (SortValue::Number(number), _) => Some(*number),
                        (SortValue::Text(text), SegmentColumn::Text(_, terms)) => {
                            let dictionary = terms.dictionary();
                            Some(match dictionary.term_ord(text)? {
                                Some(term) => 2 * term + 1,
                                None => 2 * terms_below(terms, text)?,
                            })
                        }
                        // No document of this segment has a value: all of them come last.
                        (SortValue::Text(_), _) => Some(0),
                    };
                    ranks.push(own.map_or(LAST, |value| {
                        if *descending {
                            (!value).saturating_sub(1)
                        } else {
                            value.min(LAST - 1)
                        }
                    }));
                }
                Some((ranks, hit.address))
            }
        };
        let latest = match &self.latest {
            None => None,
            Some((fields, latest)) => Some(LatestSegment::new(reader, fields, latest)?),
        };
        Ok(PageSegment {
            columns,
            ordinal,
            limit: self.limit,
            after,
            latest,
            total: 0,
            hits: Vec::new(),
            worst: None,
        })
    }

    fn requires_scoring(&self) -> bool {
        self.columns
            .iter()
            .any(|column| matches!(column, SortColumn::Score))
    }

    fn merge_fruits(
        &self,
        fruits: Vec<tantivy::Result<(Vec<Hit>, u64)>>,
    ) -> tantivy::Result<Self::Fruit> {
        let (mut hits, mut total) = (Vec::new(), 0);
        for fruit in fruits {
            let (own, count) = fruit?;
            hits.extend(own);
            total += count;
        }
        hits.sort_by(|a, b| compare(&self.columns, a, b));
        hits.truncate(self.limit);
        Ok((hits, total))
    }
}

/// How many terms of a column sort before `text`.
fn terms_below(terms: &StrColumn, text: &str) -> tantivy::Result<u64> {
    let dictionary = terms.dictionary();
    let (mut low, mut high) = (0_u64, dictionary.num_terms() as u64);
    let mut term = Vec::new();
    while low < high {
        let middle = low + (high - low) / 2;
        term.clear();
        dictionary.ord_to_term(middle, &mut term)?;
        if term.as_slice() < text.as_bytes() {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

impl SegmentCollector for PageSegment {
    type Fruit = tantivy::Result<(Vec<Hit>, u64)>;

    fn collect(&mut self, doc: DocId, score: Score) {
        if self
            .latest
            .as_ref()
            .is_some_and(|latest| !latest.holds(doc))
        {
            return;
        }
        self.total += 1;
        if self.limit == 0 {
            return;
        }
        let rank = self.rank(doc, score);
        if let Some((after, address)) = &self.after {
            let own = DocAddress::new(self.ordinal, doc);
            if (&rank, own) <= (after, *address) {
                return;
            }
        }
        if let Some((worst, last)) = &self.worst
            && (&rank, &doc) >= (worst, last)
        {
            return;
        }
        self.hits.push((rank, doc));
        if self.hits.len() >= 2 * self.limit + 64 {
            self.cut();
        }
    }

    fn harvest(mut self) -> Self::Fruit {
        self.cut();
        let mut hits = Vec::with_capacity(self.hits.len());
        for (rank, doc) in std::mem::take(&mut self.hits) {
            let mut key = Vec::with_capacity(rank.len());
            for ((column, descending), value) in self.columns.iter().zip(rank) {
                if value == LAST {
                    key.push(SortValue::Missing);
                    continue;
                }
                let value = if *descending { !(value + 1) } else { value };
                key.push(match column {
                    SegmentColumn::Text(_, terms) => {
                        let mut text = String::new();
                        terms.ord_to_str((value - 1) / 2, &mut text)?;
                        SortValue::Text(text)
                    }
                    _ => SortValue::Number(value),
                });
            }
            hits.push(Hit {
                key,
                address: DocAddress::new(self.ordinal, doc),
            });
        }
        Ok((hits, self.total))
    }
}

/// Whether a document belongs to the highest revision of its project, within one segment.
struct LatestSegment {
    projects: Option<Column<u64>>,
    revisions: Option<Column<u64>>,
    /// By the ordinal of the project.
    highest: HashMap<u64, u64>,
}

impl LatestSegment {
    fn new(
        reader: &SegmentReader,
        fields: &LatestFields,
        latest: &Latest,
    ) -> tantivy::Result<Self> {
        let mut highest = HashMap::new();
        let mut projects = None;
        if let Some((column, terms)) = text_column(reader, &fields.project)? {
            for (project, revision) in latest.iter() {
                if let Some(term) = terms.dictionary().term_ord(project)? {
                    highest.insert(term, *revision);
                }
            }
            projects = Some(column);
        }
        Ok(Self {
            projects,
            revisions: number_column(reader, &fields.revision)?,
            highest,
        })
    }

    fn holds(&self, doc: DocId) -> bool {
        let project = self.projects.as_ref().and_then(|column| column.first(doc));
        let revision = self.revisions.as_ref().and_then(|column| column.first(doc));
        match (project, revision) {
            (Some(project), Some(revision)) => self.highest.get(&project) == Some(&revision),
            _ => false,
        }
    }
}

/// Finds the highest revision of each project.
pub struct LatestCollector(pub LatestFields);

pub struct LatestFinder {
    terms: Option<(Column<u64>, StrColumn)>,
    revisions: Option<Column<u64>>,
    highest: HashMap<u64, u64>,
}

impl Collector for LatestCollector {
    type Fruit = HashMap<String, u64>;
    type Child = LatestFinder;

    fn for_segment(
        &self,
        _: SegmentOrdinal,
        reader: &SegmentReader,
    ) -> tantivy::Result<LatestFinder> {
        Ok(LatestFinder {
            terms: text_column(reader, &self.0.project)?,
            revisions: number_column(reader, &self.0.revision)?,
            highest: HashMap::new(),
        })
    }

    fn requires_scoring(&self) -> bool {
        false
    }

    fn merge_fruits(
        &self,
        fruits: Vec<tantivy::Result<HashMap<String, u64>>>,
    ) -> tantivy::Result<Self::Fruit> {
        let mut merged = HashMap::new();
        for fruit in fruits {
            for (project, revision) in fruit? {
                let own = merged.entry(project).or_insert(revision);
                *own = revision.max(*own);
            }
        }
        Ok(merged)
    }
}

impl SegmentCollector for LatestFinder {
    type Fruit = tantivy::Result<HashMap<String, u64>>;

    fn collect(&mut self, doc: DocId, _: Score) {
        let project = self
            .terms
            .as_ref()
            .and_then(|(column, _)| column.first(doc));
        let revision = self.revisions.as_ref().and_then(|column| column.first(doc));
        if let (Some(project), Some(revision)) = (project, revision) {
            let own = self.highest.entry(project).or_insert(revision);
            *own = revision.max(*own);
        }
    }

    fn harvest(self) -> Self::Fruit {
        let Some((_, terms)) = self.terms else {
            return Ok(HashMap::new());
        };
        let mut named = HashMap::with_capacity(self.highest.len());
        for (term, revision) in self.highest {
            let mut text = String::new();
            terms.ord_to_str(term, &mut text)?;
            named.insert(text, revision);
        }
        Ok(named)
    }
}

/// A value of a field, ordered within its kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FieldValue {
    Number(u64),
    Text(String),
}

/// Counts the documents that have each value of a field.
pub struct ValueCollector(pub String);

pub struct ValueCounter {
    numbers: Option<Column<u64>>,
    terms: Option<(Column<u64>, StrColumn)>,
    counts: HashMap<u64, u64>,
    seen: Vec<u64>,
}

impl Collector for ValueCollector {
    type Fruit = HashMap<FieldValue, u64>;
    type Child = ValueCounter;

    fn for_segment(
        &self,
        _: SegmentOrdinal,
        reader: &SegmentReader,
    ) -> tantivy::Result<ValueCounter> {
        let terms = text_column(reader, &self.0)?;
        let numbers = match terms {
            Some(_) => None,
            None => number_column(reader, &self.0)?,
        };
        Ok(ValueCounter {
            numbers,
            terms,
            counts: HashMap::new(),
            seen: Vec::new(),
        })
    }

    fn requires_scoring(&self) -> bool {
        false
    }

    fn merge_fruits(
        &self,
        fruits: Vec<tantivy::Result<HashMap<FieldValue, u64>>>,
    ) -> tantivy::Result<Self::Fruit> {
        let mut merged = HashMap::new();
        for fruit in fruits {
            for (value, count) in fruit? {
                *merged.entry(value).or_insert(0) += count;
            }
        }
        Ok(merged)
    }
}

impl SegmentCollector for ValueCounter {
    type Fruit = tantivy::Result<HashMap<FieldValue, u64>>;

    fn collect(&mut self, doc: DocId, _: Score) {
        let Some(column) = self
            .terms
            .as_ref()
            .map(|(column, _)| column)
            .or(self.numbers.as_ref())
        else {
            return;
        };
        // A document counts once for a value, however often it has it.
        self.seen.clear();
        self.seen.extend(column.values_for_doc(doc));
        self.seen.sort_unstable();
        self.seen.dedup();
        for value in &self.seen {
            *self.counts.entry(*value).or_insert(0) += 1;
        }
    }

    fn harvest(self) -> Self::Fruit {
        let mut named = HashMap::with_capacity(self.counts.len());
        for (value, count) in self.counts {
            let value = match &self.terms {
                None => FieldValue::Number(value),
                Some((_, terms)) => {
                    let mut text = String::new();
                    terms.ord_to_str(value, &mut text)?;
                    FieldValue::Text(text)
                }
            };
            named.insert(value, count);
        }
        Ok(named)
    }
}

/// The distinct values of one text field for each value of another.
pub struct GroupCollector {
    pub group: String,
    pub field: String,
}

pub struct Grouper {
    group: Option<(Column<u64>, StrColumn)>,
    field: Option<(Column<u64>, StrColumn)>,
    pairs: BTreeMap<u64, BTreeSet<u64>>,
}

impl Collector for GroupCollector {
    type Fruit = BTreeMap<String, BTreeSet<String>>;
    type Child = Grouper;

    fn for_segment(&self, _: SegmentOrdinal, reader: &SegmentReader) -> tantivy::Result<Grouper> {
        Ok(Grouper {
            group: text_column(reader, &self.group)?,
            field: text_column(reader, &self.field)?,
            pairs: BTreeMap::new(),
        })
    }

    fn requires_scoring(&self) -> bool {
        false
    }

    fn merge_fruits(
        &self,
        fruits: Vec<tantivy::Result<Self::Fruit>>,
    ) -> tantivy::Result<Self::Fruit> {
        let mut merged: Self::Fruit = BTreeMap::new();
        for fruit in fruits {
            for (group, values) in fruit? {
                merged.entry(group).or_default().extend(values);
            }
        }
        Ok(merged)
    }
}

impl SegmentCollector for Grouper {
    type Fruit = tantivy::Result<BTreeMap<String, BTreeSet<String>>>;

    fn collect(&mut self, doc: DocId, _: Score) {
        let Some(group) = self
            .group
            .as_ref()
            .and_then(|(column, _)| column.first(doc))
        else {
            return;
        };
        let values = self.pairs.entry(group).or_default();
        if let Some((column, _)) = &self.field {
            values.extend(column.values_for_doc(doc));
        }
    }

    fn harvest(self) -> Self::Fruit {
        let Some((_, groups)) = self.group else {
            return Ok(BTreeMap::new());
        };
        let ords: Vec<u64> = self.pairs.keys().copied().collect();
        let names = texts(&groups, &ords)?;
        let mut known: Vec<u64> = self.pairs.values().flatten().copied().collect();
        known.sort_unstable();
        known.dedup();
        let values = match &self.field {
            Some((_, terms)) => texts(terms, &known)?,
            None => Vec::new(),
        };
        let text = |ord: &u64| {
            let place = known.binary_search(ord).ok()?;
            values.get(place).cloned()
        };
        let named = names.into_iter().zip(self.pairs.values());
        let named = named.map(|(name, own)| (name, own.iter().filter_map(text).collect()));
        Ok(named.collect())
    }
}

/// The texts of ordinals, which are sorted. All in one pass: each by itself would unpack a block of the
/// dictionary.
fn texts(column: &StrColumn, ords: &[u64]) -> tantivy::Result<Vec<String>> {
    let mut texts = Vec::with_capacity(ords.len());
    let found = column.dictionary().sorted_ords_to_term_cb(ords, |term| {
        texts.push(String::from_utf8_lossy(term).into_owned());
    })?;
    match found {
        true => Ok(texts),
        false => Err(TantivyError::InternalError(
            "a dictionary lacks a term of its column".to_owned(),
        )),
    }
}

/// A failure of the engine, as the door reports it.
pub fn failure(error: TantivyError) -> artifactdb_core::search::SearchError {
    use artifactdb_core::search::SearchError;
    match error {
        TantivyError::InvalidArgument(text) => SearchError::Invalid(text),
        other => SearchError::Unavailable(other.to_string()),
    }
}

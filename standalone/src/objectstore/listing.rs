//! Pages of keys, versions, parts and uploads, in key order with folders rolled up.

use std::ops::Bound;

use redb::ReadableTable;

use super::catalog::{
    CURRENT, Catalog, CatalogError, Entry, PARTS, Part, UPLOADS, Upload, VERSIONS, current_key,
};

/// Bytes of `!sequence` and its separator at the end of a version's row key.
const SUFFIX: usize = 9;

/// What to list: keys that start with `prefix`, after `after`, rolled up at `delimiter`.
pub struct Range<'a> {
    pub bucket: &'a str,
    pub prefix: &'a str,
    pub delimiter: Option<&'a str>,
    /// A key, or a common prefix that was listed.
    pub after: Option<&'a str>,
    pub limit: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Row {
    Object(String, Box<Entry>),
    Folder(String),
}

impl Row {
    pub fn name(&self) -> &str {
        match self {
            Row::Object(key, _) => key,
            Row::Folder(prefix) => prefix,
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub rows: Vec<Row>,
    pub truncated: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct VersionListing {
    /// Key, entry, and whether it is the newest of its key.
    pub versions: Vec<(String, Entry, bool)>,
    pub truncated: bool,
}

/// The first byte string after everything that starts with `prefix`.
fn after_prefix(mut prefix: Vec<u8>) -> Option<Vec<u8>> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            return Some(prefix);
        }
    }
    None
}

fn common_prefix<'k>(key: &'k str, prefix: &str, delimiter: Option<&str>) -> Option<&'k str> {
    let delimiter = delimiter.filter(|text| !text.is_empty())?;
    let rest = key.strip_prefix(prefix)?;
    let at = rest.find(delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

impl Catalog {
    pub fn list(&self, range: &Range<'_>) -> Result<Listing, CatalogError> {
        self.bucket(range.bucket)?;
        let table = self.read()?.open_table(CURRENT)?;
        let base = current_key(range.bucket, "").len();
        let wanted = current_key(range.bucket, range.prefix);
        let mut start = Bound::Included(wanted.clone());
        if let Some(after) = range.after.filter(|after| *after >= range.prefix) {
            let folder = common_prefix(after, range.prefix, range.delimiter) == Some(after);
            let from = current_key(range.bucket, after);
            start = match folder.then(|| after_prefix(from.clone())).flatten() {
                Some(next) => Bound::Included(next),
                None => Bound::Excluded(from),
            };
        }
        let mut listing = Listing::default();
        loop {
            let from = start.as_ref().map(Vec::as_slice);
            let mut jump = None;
            for row in table.range::<&[u8]>((from, Bound::Unbounded))? {
                let (key, value) = row?;
                let bytes = key.value();
                if !bytes.starts_with(&wanted) {
                    return Ok(listing);
                }
                if listing.rows.len() >= range.limit {
                    listing.truncated = true;
                    return Ok(listing);
                }
                let key = String::from_utf8_lossy(&bytes[base..]).into_owned();
                match common_prefix(&key, range.prefix, range.delimiter) {
                    Some(folder) => {
                        let folder = folder.to_owned();
                        jump = after_prefix(current_key(range.bucket, &folder));
                        listing.rows.push(Row::Folder(folder));
                        break;
                    }
                    None => {
                        let entry = serde_json::from_slice(value.value())?;
                        listing.rows.push(Row::Object(key, Box::new(entry)));
                    }
                }
            }
            match jump {
                Some(next) => start = Bound::Included(next),
                None => return Ok(listing),
            }
        }
    }

    /// Versions of keys that start with `prefix`, after the version `marker` of the key.
    pub fn list_versions(
        &self,
        range: &Range<'_>,
        marker: Option<&str>,
    ) -> Result<VersionListing, CatalogError> {
        self.bucket(range.bucket)?;
        let transaction = self.read()?;
        let table = transaction.open_table(VERSIONS)?;
        let base = current_key(range.bucket, "").len();
        let wanted = current_key(range.bucket, range.prefix);
        let start = match range.after {
            None => Bound::Included(wanted.clone()),
            Some(after) => {
                let mut from = current_key(range.bucket, after);
                from.push(0);
                match marker.and_then(|id| u64::from_str_radix(id, 16).ok()) {
                    Some(sequence) => {
                        from.extend_from_slice(&(!sequence).to_be_bytes());
                        Bound::Excluded(from)
                    }
                    None => {
                        from.extend_from_slice(&[u8::MAX; 8]);
                        Bound::Excluded(from)
                    }
                }
            }
        };
        let mut listing = VersionListing::default();
        let mut previous = match (range.after, marker) {
            (Some(after), Some(_)) => after.to_owned(),
            _ => String::new(),
        };
        let from = start.as_ref().map(Vec::as_slice);
        for row in table.range::<&[u8]>((from, Bound::Unbounded))? {
            let (key, value) = row?;
            let bytes = key.value();
            if !bytes.starts_with(&wanted) || bytes.len() < base + SUFFIX {
                break;
            }
            if listing.versions.len() >= range.limit {
                listing.truncated = true;
                break;
            }
            let key = String::from_utf8_lossy(&bytes[base..bytes.len() - SUFFIX]).into_owned();
            let newest = key != previous;
            previous.clone_from(&key);
            let entry = serde_json::from_slice(value.value())?;
            listing.versions.push((key, entry, newest));
        }
        if table.range(wanted.as_slice()..)?.next().is_none() {
            // A bucket without versions: each current object is its only one.
            return self.unversioned(range);
        }
        Ok(listing)
    }

    fn unversioned(&self, range: &Range<'_>) -> Result<VersionListing, CatalogError> {
        let listing = self.list(&Range {
            delimiter: None,
            ..*range
        })?;
        let versions = listing.rows.into_iter().filter_map(|row| match row {
            Row::Object(key, entry) => Some((key, *entry, true)),
            Row::Folder(_) => None,
        });
        Ok(VersionListing {
            versions: versions.collect(),
            truncated: listing.truncated,
        })
    }

    pub fn upload(&self, id: &str, bucket: &str, key: &str) -> Result<Upload, CatalogError> {
        let table = self.read()?.open_table(UPLOADS)?;
        let row = table.get(id)?.ok_or(CatalogError::NoSuchUpload)?;
        let upload: Upload = serde_json::from_slice(row.value())?;
        if upload.bucket != bucket || upload.key != key {
            return Err(CatalogError::NoSuchUpload);
        }
        Ok(upload)
    }

    pub fn parts(
        &self,
        id: &str,
        after: u32,
        limit: usize,
    ) -> Result<(Vec<(u32, Part)>, bool), CatalogError> {
        let table = self.read()?.open_table(PARTS)?;
        let mut parts = Vec::new();
        for row in table.range((id, after.saturating_add(1))..=(id, u32::MAX))? {
            if parts.len() >= limit {
                return Ok((parts, true));
            }
            let (key, part) = row?;
            parts.push((key.value().1, serde_json::from_slice(part.value())?));
        }
        Ok((parts, false))
    }

    /// The unfinished uploads of a bucket by key.
    pub fn uploads(
        &self,
        bucket: &str,
        prefix: &str,
    ) -> Result<Vec<(String, Upload)>, CatalogError> {
        self.bucket(bucket)?;
        let table = self.read()?.open_table(UPLOADS)?;
        let mut found = Vec::new();
        for row in table.iter()? {
            let (id, upload) = row?;
            let upload: Upload = serde_json::from_slice(upload.value())?;
            if upload.bucket == bucket && upload.key.starts_with(prefix) {
                found.push((id.value().to_owned(), upload));
            }
        }
        found.sort_by(|(a, left), (b, right)| (&left.key, a).cmp(&(&right.key, b)));
        Ok(found)
    }
}

//! The bytes of objects: small ones in memory on their way into the catalog, large ones in files
//! that nobody refers to until the catalog commits their entry. Every byte is hashed on its way in.

use std::path::{Path, PathBuf};
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use md5::{Digest, Md5};
use s3s::checksum::ChecksumHasher;
use s3s::dto::Checksum;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

/// Content up to this many bytes lives in the database: one fsync instead of three.
pub const INLINE: usize = 64 * 1024;
const CHUNK: usize = 128 * 1024;

/// Where the bytes of an object are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// In the catalog's table of small content, under this number.
    Inline(u64),
    /// In files, one after the other: name and bytes of each.
    Files(Vec<(String, u64)>),
}

/// Bytes that arrived, hashed and durable but referred to by nobody.
pub struct Received {
    pub size: u64,
    pub md5: [u8; 16],
    pub checksum: Checksum,
    pub bytes: Staged,
}

pub enum Staged {
    Memory(Bytes),
    File(TemporaryFile),
}

/// A content file that is deleted on drop unless it is kept.
pub struct TemporaryFile {
    path: PathBuf,
    pub name: String,
    kept: bool,
}

impl TemporaryFile {
    /// Called once the catalog refers to it.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The folder of content files.
#[derive(Debug, Clone)]
pub struct Contents {
    folder: PathBuf,
}

pub type ByteStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send + Sync>>;

impl Contents {
    pub fn open(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn new_file(&self) -> TemporaryFile {
        let name = format!("{:032x}", rand::random::<u128>());
        TemporaryFile {
            path: self.path(&name),
            name,
            kept: false,
        }
    }

    /// Takes a body in; up to `inline` bytes stay in memory. When this returns, the bytes survive a crash of the machine, if the
    /// catalog comes to refer to them.
    pub async fn receive<S, E>(
        &self,
        mut body: S,
        mut checksum: ChecksumHasher,
        inline: usize,
    ) -> std::io::Result<Received>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut md5 = Md5::new();
        let mut memory = BytesMut::new();
        let mut file: Option<(TemporaryFile, tokio::fs::File)> = None;
        let mut size = 0_u64;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(std::io::Error::other)?;
            md5.update(&chunk);
            checksum.update(&chunk);
            size += chunk.len() as u64;
            memory.extend_from_slice(&chunk);
            if memory.len() > inline {
                let (_, open) = match &mut file {
                    Some(open) => open,
                    None => {
                        let name = self.new_file();
                        let open = tokio::fs::File::create_new(&name.path).await?;
                        file.insert((name, open))
                    }
                };
                open.write_all(&memory.split()).await?;
            }
        }
        let bytes = match file {
            None => Staged::Memory(memory.freeze()),
            Some((name, mut open)) => {
                open.write_all(&memory).await?;
                open.flush().await?;
                open.sync_all().await?;
                self.sync_folder().await?;
                Staged::File(name)
            }
        };
        Ok(Received {
            size,
            md5: md5.finalize().into(),
            checksum: checksum.finalize(),
            bytes,
        })
    }

    /// Makes the names of new files durable.
    async fn sync_folder(&self) -> std::io::Result<()> {
        tokio::fs::File::open(&self.folder).await?.sync_all().await
    }

    /// Opens all files of an object: from then on it can be read whole, even if it is deleted.
    pub async fn open_files(&self, files: &[(String, u64)]) -> std::io::Result<OpenFiles> {
        let mut open = Vec::with_capacity(files.len());
        for (name, size) in files {
            open.push((tokio::fs::File::open(self.path(name)).await?, *size));
        }
        Ok(OpenFiles(open))
    }

    pub fn remove(&self, name: &str) {
        if let Err(error) = std::fs::remove_file(self.path(name)) {
            tracing::debug!(name, %error, "cannot delete a content file");
        }
    }

    /// The names of all files that are older than `age`.
    pub fn older_than(&self, age: std::time::Duration) -> std::io::Result<Vec<String>> {
        let now = std::time::SystemTime::now();
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let modified = entry.metadata()?.modified()?;
            let old = now.duration_since(modified).is_ok_and(|since| since >= age);
            if let (true, Ok(name)) = (old, entry.file_name().into_string()) {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// The open files of an object, one after the other.
pub struct OpenFiles(Vec<(tokio::fs::File, u64)>);

impl OpenFiles {
    /// Streams `length` bytes from `start`.
    pub async fn read(self, start: u64, length: u64) -> std::io::Result<ByteStream> {
        let mut skip = start;
        let mut wanted = length;
        let mut parts = Vec::new();
        for (mut file, size) in self.0 {
            if skip >= size {
                skip -= size;
                continue;
            }
            let take = wanted.min(size - skip);
            if take == 0 {
                break;
            }
            file.seek(std::io::SeekFrom::Start(skip)).await?;
            parts.push((file, take));
            skip = 0;
            wanted -= take;
        }
        parts.reverse();
        let stream = futures::stream::try_unfold(parts, |mut parts| async move {
            loop {
                let Some((mut file, left)) = parts.pop() else {
                    return Ok::<_, std::io::Error>(None);
                };
                if left == 0 {
                    continue;
                }
                let take = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                let mut chunk = vec![0; take];
                file.read_exact(&mut chunk).await?;
                parts.push((file, left - take as u64));
                return Ok(Some((Bytes::from(chunk), parts)));
            }
        });
        Ok(Box::pin(stream))
    }
}

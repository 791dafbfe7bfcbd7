//! What the benchmarks share: processes, load over kept connections, and the table of results.

#![allow(dead_code)]

use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub async fn wait_for(path: &Path) -> String {
    for _ in 0..20_000 {
        if let Ok(text) = std::fs::read_to_string(path) {
            return text;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("'{}' does not appear", path.display());
}

/// Megabytes that a process holds.
pub fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid)).unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap_or_default();
    let kilobytes: f64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(0.0);
    kilobytes / 1024.0
}

/// Requests per second and latencies in milliseconds of one keep-alive load.
pub struct Load {
    pub rate: f64,
    pub p50: f64,
    pub p99: f64,
}

/// Requests for `paths`.
pub fn gets(address: &str, paths: &[String]) -> Vec<Vec<u8>> {
    paths
        .iter()
        .map(|path| format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").into_bytes())
        .collect()
}

/// The next request of whoever asks, over all rounds.
static TURN: AtomicUsize = AtomicUsize::new(0);

/// Sends requests over `connections` kept open, each as soon as the last is answered. They are
/// taken in turn, each by one connection.
pub async fn load(
    address: &str,
    requests: &[Vec<u8>],
    connections: usize,
    duration: Duration,
) -> Load {
    let until = Instant::now() + duration;
    let requests: Arc<[Vec<u8>]> = requests.into();
    let clients = (0..connections).map(|_| {
        let address = address.to_owned();
        let requests = requests.clone();
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut buffer = vec![0; 64 * 1024];
            let mut latencies = Vec::new();
            while Instant::now() < until {
                let begun = Instant::now();
                let next = TURN.fetch_add(1, Ordering::Relaxed) % requests.len();
                stream.write_all(&requests[next]).await.unwrap();
                read_answer(&mut stream, &mut buffer).await;
                latencies.push(begun.elapsed().as_secs_f64() * 1000.0);
            }
            latencies
        })
    });
    let begun = Instant::now();
    let mut latencies: Vec<f64> = Vec::new();
    for client in futures::future::join_all(clients).await {
        latencies.extend(client.unwrap());
    }
    let seconds = begun.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    Load {
        rate: latencies.len() as f64 / seconds,
        p50: at(0.5),
        p99: at(0.99),
    }
}

async fn read_answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await.unwrap();
        assert!(read > 0, "the server closed the connection");
        filled += read;
        let Some(end) = buffer[..filled]
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
        else {
            continue;
        };
        let head = std::str::from_utf8(&buffer[..end]).unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        if head
            .to_ascii_lowercase()
            .contains("transfer-encoding: chunked")
        {
            // The last chunk is an empty one.
            while !buffer[..filled].ends_with(b"0\r\n\r\n") {
                if buffer.len() < filled + 16 * 1024 {
                    buffer.resize(2 * buffer.len(), 0);
                }
                let read = stream.read(&mut buffer[filled..]).await.unwrap();
                assert!(read > 0);
                filled += read;
            }
            return;
        }
        let length: usize = head
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")
                    .map(|n| n.trim().parse().unwrap())
            })
            .expect("a length");
        let whole = end + 4 + length;
        if buffer.len() < whole {
            buffer.resize(whole, 0);
        }
        while filled < whole {
            let read = stream.read(&mut buffer[filled..whole]).await.unwrap();
            assert!(read > 0);
            filled += read;
        }
        return;
    }
}

pub struct Row {
    pub name: String,
    pub ours: String,
    pub baseline: String,
    pub result: String,
    pub target: String,
    pub met: bool,
}

pub fn print(rows: &[Row]) {
    let cells: Vec<[&str; 6]> = rows
        .iter()
        .map(|row| {
            let met = if row.met { "met" } else { "MISSED" };
            [
                row.name.as_str(),
                &row.ours,
                &row.baseline,
                &row.result,
                &row.target,
                met,
            ]
        })
        .collect();
    let head = ["what", "ours", "baseline", "result", "target", ""];
    let width = |column: usize| {
        cells
            .iter()
            .map(|row| row[column].chars().count())
            .chain([head[column].len()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[&str; 6]| {
        let padded: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        println!("| {} |", padded.join(" | "));
    };
    println!();
    line(&head);
    println!(
        "|{}|",
        widths
            .iter()
            .map(|width| "-".repeat(width + 2))
            .collect::<Vec<_>>()
            .join("|")
    );
    cells.iter().for_each(line);
}

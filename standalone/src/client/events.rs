//! Events: those that were, and those that happen, as server-sent events (the HTML standard's section
//! 9.2).

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use super::{Api, ClientError, ClientResult, Printer, encode, unreachable};

/// Events that are remembered so that none is shown twice.
const SHOWN: usize = 1000;
/// Pause before a broken connection is made again.
const PAUSE: Duration = Duration::from_secs(1);

pub struct EventsOptions {
    pub follow: bool,
    pub stages: Vec<String>,
    pub projects: Vec<String>,
    /// A time, or a period such as `2h`.
    pub since: Option<String>,
}

impl EventsOptions {
    fn query(&self) -> String {
        let joined = |list: &[String]| (!list.is_empty()).then(|| list.join(","));
        let parts = [
            ("stage", joined(&self.stages)),
            ("project", joined(&self.projects)),
            ("since", self.since.clone()),
        ];
        let given = parts
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", encode(&value?))));
        given.collect::<Vec<_>>().join("&")
    }
}

/// Prints events, a line each; with `follow` for ever.
pub async fn events(api: &Api, options: &EventsOptions, printer: &Printer) -> ClientResult<()> {
    let query = options.query();
    if !options.follow {
        let path = format!("/events?size=500&{query}");
        let (events, _) = api.all(&path, None).await?;
        for event in &events {
            printer.event(event);
        }
        return Ok(());
    }
    let path = format!("/events/follow?{query}");
    let mut messages = Messages::default();
    loop {
        let followed = follow(api, &path, &mut messages, printer).await;
        match followed {
            // The server stops, and comes back or has a successor.
            Ok(()) | Err(ClientError::Unreachable { .. }) if messages.connected => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(ClientError::Answer { status, .. })
                if messages.connected && status.is_server_error() =>
            {
                tokio::time::sleep(PAUSE).await;
            }
            other => return other,
        }
    }
}

/// Follows until the connection ends.
async fn follow(
    api: &Api,
    path: &str,
    messages: &mut Messages,
    printer: &Printer,
) -> ClientResult<()> {
    let seen = messages.id.clone();
    let header = seen.as_deref().map(|id| ("last-event-id", id));
    let mut response = api.send_with(Method::GET, path, None, header).await?;
    messages.connected = true;
    messages.pending.clear();
    loop {
        match response.chunk().await {
            Ok(Some(bytes)) => {
                for data in messages.take(&bytes) {
                    let event: Value = serde_json::from_str(&data).map_err(|error| {
                        ClientError::Local(format!("an event is not JSON: {error}"))
                    })?;
                    if messages.is_new(&event) {
                        printer.event(&event);
                    }
                }
            }
            Ok(None) => return Ok(()),
            Err(error) => return Err(unreachable(path, &error)),
        }
    }
}

/// A stream of messages as it comes in.
#[derive(Default)]
struct Messages {
    /// What is not a whole line yet.
    pending: Vec<u8>,
    data: Vec<String>,
    next_id: Option<String>,
    /// Of the last whole message.
    id: Option<String>,
    connected: bool,
    /// Ids of the latest events, oldest first: after a break some are told again.
    shown: VecDeque<String>,
}

impl Messages {
    fn is_new(&mut self, event: &Value) -> bool {
        let id = event.get("id").and_then(Value::as_str).unwrap_or_default();
        if self.shown.iter().any(|own| own == id) {
            return false;
        }
        if self.shown.len() == SHOWN {
            self.shown.pop_front();
        }
        self.shown.push_back(id.to_owned());
        true
    }

    /// Adds bytes; returns the data of the messages that are whole now.
    fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        self.pending.extend_from_slice(bytes);
        let mut whole = Vec::new();
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\r', '\n']);
            if line.is_empty() {
                if let Some(id) = self.next_id.take() {
                    self.id = Some(id);
                }
                if !self.data.is_empty() {
                    whole.push(std::mem::take(&mut self.data).join("\n"));
                }
                continue;
            }
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "data" => self.data.push(value.to_owned()),
                "id" => self.next_id = Some(value.to_owned()),
                _ => {}
            }
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_put_together_from_any_pieces() {
        let text = ": hello\n\nevent: indexed\ndata: {\"a\":\ndata: 1}\nid: 7\n\ndata: second\r\n\r\ndata: half";
        let mut at_once = Messages::default();
        let whole = at_once.take(text.as_bytes());
        assert_eq!(whole, ["{\"a\":\n1}", "second"]);
        assert_eq!(at_once.id.as_deref(), Some("7"));
        let mut bit_by_bit = Messages::default();
        let mut got = Vec::new();
        for byte in text.bytes() {
            got.extend(bit_by_bit.take(&[byte]));
        }
        assert_eq!(got, whole);
    }
}

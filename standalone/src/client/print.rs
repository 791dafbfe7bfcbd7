//! What the client prints: lines for people, JSON for machines.

use std::io::Write;

use serde_json::{Value, json};

/// How to print.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    pub as_json: bool,
}

/// A closed pipe is no reason to panic.
fn out(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

impl Printer {
    pub fn json(&self, value: &Value) {
        out(&if self.as_json {
            value.to_string()
        } else {
            pretty(value)
        });
    }

    /// One or the other form of the same news.
    pub fn line(&self, text: &str, value: &Value) {
        out(&if self.as_json {
            value.to_string()
        } else {
            text.to_owned()
        });
    }

    /// Progress, which is not a result: to standard error, and not at all for machines.
    pub fn progress(&self, text: &str) {
        if !self.as_json {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    pub fn results(&self, results: &[Value], total: u64, selected: bool) {
        if self.as_json {
            out(&json!({"results": results, "count": results.len(), "total": total}).to_string());
            return;
        }
        for result in results {
            if selected {
                out(&result.to_string());
                continue;
            }
            let text = |pointer: &str| result.pointer(pointer).and_then(Value::as_str);
            let id = text("/_extra/id").unwrap_or_default();
            let about = text("/title")
                .or_else(|| text("/description"))
                .unwrap_or_default();
            let about: String = about
                .chars()
                .take(72)
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            out(&format!("{id}  {about}"));
        }
        self.progress(&format!("{} of {total}", results.len()));
    }

    /// A line for each, whatever follows.
    pub fn event(&self, event: &Value) {
        if self.as_json {
            out(&event.to_string());
            return;
        }
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or("");
        let (project, version) = (text("project_id"), text("version"));
        let what = match (project, version) {
            ("", _) => "everything".to_owned(),
            (project, "") => project.to_owned(),
            (project, version) => format!("{project}@{version}"),
        };
        let message = event.get("message").filter(|own| **own != json!({}));
        let message = message.map_or_else(String::new, |own| format!("  {own}"));
        let (time, stage) = (text("time"), text("stage"));
        out(&format!("{time}  {stage:<19} {what}{message}"));
    }

    pub fn projects(&self, results: &[Value], total: u64) {
        if self.as_json {
            out(&json!({"results": results, "total": total}).to_string());
            return;
        }
        for project in results {
            let name = project.get("project_id").and_then(Value::as_str);
            out(&format!(
                "{}  {}",
                name.unwrap_or_default(),
                version_names(project).join(" ")
            ));
        }
    }

    pub fn versions(&self, answer: &Value) {
        if self.as_json {
            out(&answer.to_string());
            return;
        }
        let latest = answer
            .get("latest")
            .and_then(|latest| latest.get("_extra.version"))
            .and_then(Value::as_str);
        for name in version_names(answer) {
            let mark = if Some(name.as_str()) == latest {
                "  (latest)"
            } else {
                ""
            };
            out(&format!("{name}{mark}"));
        }
    }
}

fn version_names(project: &Value) -> Vec<String> {
    project
        .get("aggs")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|agg| agg.get("_extra.version")?.as_str().map(str::to_owned))
        .collect()
}

//! Plugins as the domain knows them: what they wait for and what they may reach. Pure. How one is run
//! is for the dispatcher and the operator.

use serde::{Deserialize, Serialize};

use crate::event::{Event, EventStage};
use crate::id::Project;
use crate::query::Query;

/// What the names of plugins begin with where users are named.
pub const PLUGIN_USER: &str = "plugin:";

/// Projects by name, by the beginning of a name (`PRJ*`), or all (`*`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Projects(Vec<String>);

impl Projects {
    pub fn new(patterns: Vec<String>) -> Self {
        Self(patterns)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn covers(&self, project: &Project) -> bool {
        self.0
            .iter()
            .any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => project.as_str().starts_with(beginning),
                None => project.as_str() == pattern,
            })
    }

    /// Documents whose `field` names one of them; none where there are no patterns.
    pub fn query(&self, field: &str) -> Option<Query> {
        let (begun, named): (Vec<&String>, Vec<&String>) =
            self.0.iter().partition(|pattern| pattern.ends_with('*'));
        let mut any: Vec<Query> = begun
            .into_iter()
            .map(|pattern| match &**pattern {
                "*" => Query::All,
                _ => Query::Wildcard {
                    field: Some(field.to_owned()),
                    pattern: escaped(pattern),
                },
            })
            .collect();
        if !named.is_empty() {
            any.push(Query::Exact {
                field: field.to_owned(),
                values: named.into_iter().cloned().collect(),
            });
        }
        (!any.is_empty()).then(|| Query::any_of(any))
    }
}

/// The beginning of a name means itself, whatever is in it.
fn escaped(pattern: &str) -> String {
    let beginning = pattern.strip_suffix('*').unwrap_or(pattern);
    let mut text = String::with_capacity(pattern.len());
    for letter in beginning.chars() {
        if matches!(letter, '*' | '?' | '\\') {
            text.push('\\');
        }
        text.push(letter);
    }
    text.push('*');
    text
}

/// The projects that a plugin was given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Grants {
    #[serde(skip_serializing_if = "Projects::is_empty")]
    pub read: Projects,
    #[serde(skip_serializing_if = "Projects::is_empty")]
    pub write: Projects,
}

/// A plugin of an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PluginConfig {
    pub name: String,
    /// What `sub` of its tokens is.
    pub subject: String,
    #[serde(default)]
    pub interest: Interest,
    #[serde(default)]
    pub access: Grants,
}

impl PluginConfig {
    /// Who it is in logs and permissions.
    pub fn user(&self) -> String {
        format!("{PLUGIN_USER}{}", self.name)
    }
}

/// A text as the variable of a container has to be written to be that text there: Kubernetes replaces
/// `$(NAME)` and takes `$$` for a `$` (core/v1 EnvVar).
pub fn variable(text: &str) -> String {
    text.replace('$', "$$")
}

/// What became of a run of a plugin, as the operator writes it for the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunRecord {
    pub job: String,
    /// Id of the event that started it.
    pub event: Option<String>,
    /// In RFC 3339, here and below.
    pub started: Option<String>,
    pub finished: Option<String>,
    pub succeeded: Option<bool>,
    pub exit_code: Option<i32>,
    /// The end of what it printed.
    pub log: Option<String>,
}

/// The events that start a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Interest {
    #[serde(default)]
    pub on: Vec<EventStage>,
    /// None: all.
    #[serde(default)]
    pub projects: Projects,
    /// What `projects` would let through.
    #[serde(default, skip_serializing_if = "Projects::is_empty")]
    pub excluded: Projects,
}

impl Interest {
    /// Whether an event starts the plugin of that name.
    pub fn matches(&self, plugin: &str, event: &Event) -> bool {
        if event.stage == EventStage::Requested {
            return event.message["plugin"] == plugin;
        }
        let among = |projects: &Projects| {
            let project = event.project_id.as_ref();
            project.is_some_and(|project| projects.covers(project))
        };
        self.on.contains(&event.stage)
            && (self.projects.is_empty() || among(&self.projects))
            && !among(&self.excluded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use serde_json::json;

    /// What Kubernetes makes of a variable's text (third_party/forked/golang/expansion).
    fn expanded(text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            if let Some(after) = from.strip_prefix("$$") {
                out.push('$');
                rest = after;
            } else if let Some((_, after)) =
                from.strip_prefix("$(").and_then(|own| own.split_once(')'))
            {
                out.push_str("EXPANDED");
                rest = after;
            } else {
                out.push('$');
                rest = &from[1..];
            }
        }
        out.push_str(rest);
        out
    }

    #[test]
    fn a_variable_is_the_text_that_it_was_made_of() {
        for text in [
            "a", "$", "$$", "$(HOME)", "$$(HOME)", "$$$(A)$", "$()", "$( $(B)",
        ] {
            assert_eq!(expanded(&variable(text)), text);
        }
        assert_eq!(expanded("$(HOME)"), "EXPANDED");
    }

    #[test]
    fn events_start_those_who_wait_for_them() {
        let interest = |on: &[EventStage], projects: &[&str]| Interest {
            on: on.to_vec(),
            projects: Projects::new(projects.iter().map(|own| (*own).to_owned()).collect()),
            excluded: Projects::default(),
        };
        let whole = Event::of_instance(
            EventStage::AllIndexed,
            "1",
            Timestamp::UNIX_EPOCH,
            json!({}),
        );
        let indexed = |project: &str| Event {
            stage: EventStage::Indexed,
            project_id: Some(Project::new(project).unwrap()),
            ..whole.clone()
        };
        let on = [EventStage::Indexed, EventStage::AllIndexed];
        assert!(interest(&on, &[]).matches("p", &whole));
        assert!(interest(&on, &[]).matches("p", &indexed("A")));
        assert!(interest(&on, &["A"]).matches("p", &indexed("A")));
        assert!(interest(&on, &["PRJ*"]).matches("p", &indexed("PRJ000001")));
        assert!(!interest(&on, &["PRJ*"]).matches("p", &indexed("A")));
        assert!(!interest(&on, &["A"]).matches("p", &whole));
        assert!(!interest(&[], &[]).matches("p", &whole));
        let but = Interest {
            excluded: Projects::new(vec!["PRJ*".to_owned(), "A".to_owned()]),
            ..interest(&on, &[])
        };
        assert!(but.matches("p", &indexed("B")) && but.matches("p", &whole));
        assert!(!but.matches("p", &indexed("A")) && !but.matches("p", &indexed("PRJ000001")));
        let asked = Event {
            stage: EventStage::Requested,
            message: json!({"plugin": "p", "params": {}}),
            ..whole
        };
        assert!(interest(&[], &["A"]).matches("p", &asked) && but.matches("p", &asked));
        assert!(!interest(&on, &[]).matches("q", &asked));
    }
}

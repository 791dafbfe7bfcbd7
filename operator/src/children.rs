//! Everything that is watched beside the custom resources: children, and the Secrets and ConfigMaps
//! that resources refer to. What is kept of each is `child`'s.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use kube::runtime::watcher::Event;
use parking_lot::RwLock;

use crate::child::{Child, ChildObject};
use crate::names::{INSTANCE, PLUGIN};
use crate::object::ChildKind;

/// Kind, namespace and name, which the child has, too.
type Key = (ChildKind, Arc<str>, Arc<str>);
/// A namespace, and something in it.
type Group = (Arc<str>, Box<str>);

#[derive(Default)]
struct Known {
    all: HashMap<Key, Arc<Child>>,
    /// Keys of children, by namespace and instance.
    by_instance: HashMap<Group, HashSet<Key>>,
    /// Keys of Jobs, by namespace and the plugin whose runs they are.
    by_plugin: HashMap<Group, HashSet<Key>>,
    /// What a list that is not complete yet has shown so far.
    listing: HashMap<ChildKind, HashMap<Key, Arc<Child>>>,
}

/// What is seen, by kind, namespace and name.
#[derive(Default)]
pub struct Children(RwLock<Known>);

/// An object that changed, and how it was before.
pub struct Change {
    pub kind: ChildKind,
    pub before: Option<Arc<Child>>,
    pub after: Option<Arc<Child>>,
}

fn key(kind: ChildKind, child: &Child) -> Key {
    (kind, child.namespace.clone(), child.name.clone())
}

fn group(child: &Child) -> Option<Group> {
    Some((child.namespace.clone(), child.label(INSTANCE)?.into()))
}

fn plugin(child: &Child) -> Option<Group> {
    Some((child.namespace.clone(), child.label(PLUGIN)?.into()))
}

impl Known {
    fn put(&mut self, key: Key, child: Arc<Child>) -> Option<Arc<Child>> {
        if let Some(group) = group(&child) {
            self.by_instance
                .entry(group)
                .or_default()
                .insert(key.clone());
        }
        if let (ChildKind::Job, Some(plugin)) = (key.0, plugin(&child)) {
            let keys = self.by_plugin.entry(plugin).or_default();
            keys.insert(key.clone());
        }
        let before = self.all.insert(key.clone(), child.clone());
        if let Some(before) = &before
            && group(before) != group(&child)
        {
            self.ungroup(&key, before);
        }
        before
    }

    fn lose(&mut self, key: &Key) -> Option<Arc<Child>> {
        let before = self.all.remove(key)?;
        self.ungroup(key, &before);
        if let (ChildKind::Job, Some(plugin)) = (key.0, plugin(&before))
            && let Some(keys) = self.by_plugin.get_mut(&plugin)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.by_plugin.remove(&plugin);
            }
        }
        Some(before)
    }

    fn ungroup(&mut self, key: &Key, before: &Child) {
        let Some(group) = group(before) else { return };
        if let Some(keys) = self.by_instance.get_mut(&group) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_instance.remove(&group);
            }
        }
    }
}

impl Children {
    /// Takes in what a watch says of `kind`. Returns what changed.
    pub fn take(&self, kind: ChildKind, event: Event<ChildObject>) -> Vec<Change> {
        let mut known = self.0.write();
        match event {
            Event::Init => {
                known.listing.insert(kind, HashMap::new());
                Vec::new()
            }
            Event::InitApply(child) => {
                let child = Arc::new(Child::from(child));
                known
                    .listing
                    .entry(kind)
                    .or_default()
                    .insert(key(kind, &child), child);
                Vec::new()
            }
            Event::InitDone => {
                let listed = known.listing.remove(&kind).unwrap_or_default();
                let gone: Vec<Key> = known
                    .all
                    .keys()
                    .filter(|key| key.0 == kind && !listed.contains_key(key))
                    .cloned()
                    .collect();
                let mut changes: Vec<Change> = gone
                    .iter()
                    .map(|key| Change {
                        kind,
                        before: known.lose(key),
                        after: None,
                    })
                    .collect();
                for (key, child) in listed {
                    let before = known.put(key, child.clone());
                    let version = |child: &Child| child.resource_version.clone();
                    if before.as_deref().map(version) != Some(version(&child)) {
                        changes.push(Change {
                            kind,
                            before,
                            after: Some(child),
                        });
                    }
                }
                changes
            }
            Event::Apply(child) => {
                let child = Arc::new(Child::from(child));
                let before = known.put(key(kind, &child), child.clone());
                if before.as_ref().is_some_and(|own| own.is_same(&child)) {
                    return Vec::new();
                }
                vec![Change {
                    kind,
                    before,
                    after: Some(child),
                }]
            }
            Event::Delete(child) => {
                let before = known.lose(&key(kind, &Child::from(child)));
                vec![Change {
                    kind,
                    before,
                    after: None,
                }]
            }
        }
    }

    /// Takes in what the API server answered to a write: the watch tells it later.
    pub fn learn(&self, kind: ChildKind, child: ChildObject) -> Arc<Child> {
        let child = Arc::new(Child::from(child));
        let key = key(kind, &child);
        let mut known = self.0.write();
        let number = |child: &Child| child.resource_version.parse::<u64>().ok();
        let newer = known
            .all
            .get(&key)
            .is_none_or(|before| number(before) < number(&child));
        if newer {
            known.put(key, child.clone());
        }
        child
    }

    pub fn get(&self, kind: ChildKind, namespace: &str, name: &str) -> Option<Arc<Child>> {
        let key = (kind, namespace.into(), name.into());
        self.0.read().all.get(&key).cloned()
    }

    /// The runs of a plugin.
    pub fn runs_of(&self, namespace: &str, plugin: &str) -> Vec<Arc<Child>> {
        let known = self.0.read();
        let group = (namespace.into(), plugin.into());
        let keys = known.by_plugin.get(&group).into_iter().flatten();
        keys.filter_map(|key| known.all.get(key).cloned()).collect()
    }

    /// The children of an instance, by kind and name.
    pub fn of(&self, namespace: &str, instance: &str) -> BTreeMap<(ChildKind, String), Arc<Child>> {
        let known = self.0.read();
        let group = (namespace.into(), instance.into());
        let keys = known.by_instance.get(&group).into_iter().flatten();
        keys.filter_map(|key| Some(((key.0, key.2.to_string()), known.all.get(key)?.clone())))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{MANAGED_BY, MANAGER};
    use serde_json::json;

    fn child(name: &str, version: &str, managed: bool) -> ChildObject {
        let labels = match managed {
            true => json!({MANAGED_BY: MANAGER, INSTANCE: "i", "other": "x"}),
            false => json!({"other": "x"}),
        };
        serde_json::from_value(json!({"metadata": {
            "name": name, "namespace": "n", "resourceVersion": version, "labels": labels,
        }}))
        .unwrap()
    }

    fn names(children: &Children) -> Vec<String> {
        children.of("n", "i").into_keys().map(|key| key.1).collect()
    }

    #[test]
    fn a_list_replaces_what_was_known_and_tells_what_changed() {
        let children = Children::default();
        let kind = ChildKind::ConfigMap;
        for event in [
            Event::Init,
            Event::InitApply(child("a", "1", true)),
            Event::InitApply(child("b", "2", true)),
            Event::InitApply(child("theirs", "3", false)),
        ] {
            assert!(children.take(kind, event).is_empty());
        }
        assert!(names(&children).is_empty(), "half a list is no list");
        assert_eq!(children.take(kind, Event::InitDone).len(), 3);
        assert_eq!(names(&children), ["a", "b"]);
        assert!(children.get(kind, "n", "theirs").is_some());
        children.take(kind, Event::Apply(child("c", "4", true)));
        for event in [
            Event::Init,
            Event::InitApply(child("a", "1", true)),
            Event::InitApply(child("b", "5", true)),
        ] {
            children.take(kind, event);
        }
        let changed = children.take(kind, Event::InitDone);
        // `theirs` and `c` are gone, `b` is another one, `a` is as it was.
        assert_eq!(changed.len(), 3);
        assert_eq!(names(&children), ["a", "b"]);
    }

    #[test]
    fn an_answer_that_is_older_than_the_watch_changes_nothing() {
        let children = Children::default();
        let kind = ChildKind::Service;
        children.take(kind, Event::Apply(child("a", "10", true)));
        children.learn(kind, child("a", "9", false));
        assert_eq!(names(&children), ["a"]);
        children.learn(kind, child("a", "11", false));
        assert!(names(&children).is_empty());
    }
}

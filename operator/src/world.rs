//! Watches: the custom resources, their children and what they refer to, and who is to be
//! reconciled when one of them changes. Nothing is decided here and nothing written.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use artifactdb_crds::common::InstanceSelector;
use artifactdb_crds::{ArtifactDB, ArtifactPlugin, ArtifactSchedule, ArtifactSchema};
use futures::channel::mpsc;
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, ListParams};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource, ResourceExt};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::child::{Child, ChildObject};
use crate::children::{Change, Children};
use crate::definitions::outdated;
use crate::names::{MANAGED_BY, MANAGER, PLUGIN, SOURCE};
use crate::object::ChildKind;
use crate::references::references;
use crate::runs::phase;

/// Objects of one page of a list.
const PAGE: u32 = 50;
/// Between two looks for a kind that the cluster does not know.
const LOOK: Duration = Duration::from_secs(30);
/// Shortest time between two wakings of a plugin for its runs; longer than changes are collected for.
const NUDGE: Duration = Duration::from_millis(400);
/// A copy of the whole resource, which `kubectl apply` leaves.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Between two looks at the definitions of our own kinds.
const DEFINITIONS: Duration = Duration::from_secs(300);

/// A resource that may not be readable: one that is not must hold up no other.
pub type Guard<K> = DeserializeGuard<K>;

/// The senders of names of resources that are to be reconciled.
struct Queue<K: Resource>(mpsc::UnboundedSender<ObjectRef<Guard<K>>>);

impl<K: Resource<DynamicType = ()>> Queue<K> {
    fn wake(&self, namespace: &str, name: &str) {
        // Whoever stopped listening is stopping.
        let _ = self
            .0
            .unbounded_send(ObjectRef::new(name).within(namespace));
    }
}

/// The receiving ends.
pub struct Queues {
    pub instances: mpsc::UnboundedReceiver<ObjectRef<Guard<ArtifactDB>>>,
    pub schemas: mpsc::UnboundedReceiver<ObjectRef<Guard<ArtifactSchema>>>,
    pub plugins: mpsc::UnboundedReceiver<ObjectRef<Guard<ArtifactPlugin>>>,
    pub schedules: mpsc::UnboundedReceiver<ObjectRef<Guard<ArtifactSchedule>>>,
}

pub struct World {
    pub client: Client,
    /// One namespace; absent: all of them.
    pub namespace: Option<String>,
    pub instances: Store<Guard<ArtifactDB>>,
    pub schemas: Store<Guard<ArtifactSchema>>,
    pub plugins: Store<Guard<ArtifactPlugin>>,
    pub schedules: Store<Guard<ArtifactSchedule>>,
    pub children: Children,
    /// Kinds of other projects that the cluster knows.
    optional: RwLock<BTreeSet<ChildKind>>,
    /// What is wrong with the definitions of our own kinds.
    outdated: RwLock<Vec<String>>,
    /// What is not there yet, by name.
    missing: watch::Sender<BTreeSet<String>>,
    /// When plugins may be woken again for changes of their runs.
    nudges: Mutex<HashMap<String, Instant>>,
    /// How resources were when they were last passed on.
    faces: Mutex<HashMap<String, u64>>,
    wake: Wake,
}

struct Wake {
    instances: Queue<ArtifactDB>,
    schemas: Queue<ArtifactSchema>,
    plugins: Queue<ArtifactPlugin>,
    schedules: Queue<ArtifactSchedule>,
}

/// A hash of what must differ for a change of a resource to matter (its status alone does not), and
/// of `told`, what others read of its status.
fn face(meta: &kube::core::ObjectMeta, told: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    meta.generation.hash(&mut hasher);
    meta.labels.hash(&mut hasher);
    meta.annotations.hash(&mut hasher);
    meta.finalizers.hash(&mut hasher);
    meta.deletion_timestamp.is_some().hash(&mut hasher);
    told.hash(&mut hasher);
    hasher.finish()
}

/// The API of a kind, in the namespace or in all.
pub fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

pub fn child_api(client: &Client, namespace: Option<&str>, kind: ChildKind) -> Api<ChildObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind.resource()),
        None => Api::all_with(client.clone(), &kind.resource()),
    }
}

/// The API of a kind without namespace.
pub fn cluster_api<K>(client: &Client) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope>,
{
    Api::all(client.clone())
}

impl World {
    /// Makes the caches and begins to fill them. Nothing may be decided by them before `ready`.
    pub fn watch(client: Client, namespace: Option<String>) -> (Arc<Self>, Queues) {
        let (instances, instance_writer) = reflector::store();
        let (schemas, schema_writer) = reflector::store();
        let (plugins, plugin_writer) = reflector::store();
        let (schedules, schedule_writer) = reflector::store();
        let (wake_instances, woken_instances) = mpsc::unbounded();
        let (wake_schemas, woken_schemas) = mpsc::unbounded();
        let (wake_plugins, woken_plugins) = mpsc::unbounded();
        let (wake_schedules, woken_schedules) = mpsc::unbounded();
        let world = Arc::new(Self {
            client,
            namespace,
            instances,
            schemas,
            plugins,
            schedules,
            children: Children::default(),
            optional: RwLock::default(),
            outdated: RwLock::default(),
            missing: watch::Sender::new(BTreeSet::new()),
            nudges: Mutex::default(),
            faces: Mutex::default(),
            wake: Wake {
                instances: Queue(wake_instances),
                schemas: Queue(wake_schemas),
                plugins: Queue(wake_plugins),
                schedules: Queue(wake_schedules),
            },
        });
        world
            .clone()
            .watch_resources(schema_writer, World::schema_changed);
        world
            .clone()
            .watch_resources(plugin_writer, World::plugin_changed);
        world
            .clone()
            .watch_resources(schedule_writer, World::schedule_changed);
        world
            .clone()
            .watch_resources(instance_writer, World::instance_changed);
        tokio::spawn(world.clone().watch_definitions());
        for kind in ChildKind::ALL {
            if !kind.is_optional() {
                world.awaits(&kind.resource().plural);
            }
            tokio::spawn(world.clone().watch_children(kind));
        }
        let queues = Queues {
            instances: woken_instances,
            schemas: woken_schemas,
            plugins: woken_plugins,
            schedules: woken_schedules,
        };
        (world, queues)
    }

    /// What has to be there before anything is reconciled, and is not.
    pub fn missing(&self) -> BTreeSet<String> {
        self.missing.borrow().clone()
    }

    /// Returns once everything has been seen once.
    pub async fn ready(&self) {
        let mut missing = self.missing.subscribe();
        // The sender lives as long as this does.
        let _ = missing.wait_for(BTreeSet::is_empty).await;
    }

    /// What is wrong with the definitions of our own kinds.
    pub fn outdated_definitions(&self) -> Vec<String> {
        self.outdated.read().clone()
    }

    /// Whether the cluster knows an optional kind.
    pub fn knows(&self, kind: ChildKind) -> bool {
        !kind.is_optional() || self.optional.read().contains(&kind)
    }

    fn awaits(&self, what: &str) {
        self.missing.send_modify(|missing| {
            missing.insert(what.to_owned());
        });
    }

    fn has(&self, what: &str) {
        self.missing
            .send_if_modified(|missing| missing.remove(what));
    }

    fn watch_resources<K>(
        self: Arc<Self>,
        mut writer: reflector::store::Writer<Guard<K>>,
        changed: fn(&World, &ObjectRef<Guard<K>>, Option<&K>),
    ) where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let name = K::plural(&()).into_owned();
        self.awaits(&name);
        tokio::spawn(async move {
            let api: Api<Guard<K>> = match &self.namespace {
                Some(namespace) => Api::namespaced(self.client.clone(), namespace),
                None => Api::all(self.client.clone()),
            };
            let stream = watcher(api, watcher::Config::default().page_size(PAGE)).modify(|own| {
                own.managed_fields_mut().clear();
                own.annotations_mut().remove(LAST_APPLIED);
            });
            let mut stream = std::pin::pin!(stream.default_backoff());
            let mut listed: Vec<ObjectRef<Guard<K>>> = Vec::new();
            while let Some(event) = stream.next().await {
                let event = match event {
                    Ok(event) => event,
                    Err(error) => {
                        tracing::warn!(kind = %name, %error, "cannot watch; trying again");
                        continue;
                    }
                };
                let before: Vec<_> = match &event {
                    Event::InitDone => writer.as_reader().state(),
                    _ => Vec::new(),
                };
                writer.apply_watcher_event(&event);
                match &event {
                    Event::Init => listed.clear(),
                    Event::InitApply(own) => listed.push(ObjectRef::from_obj(own)),
                    Event::InitDone => {
                        self.has(&name);
                        let store = writer.as_reader();
                        for own in before {
                            let reference = ObjectRef::from_obj(&*own);
                            if !listed.contains(&reference) {
                                changed(&self, &reference, None);
                            }
                        }
                        for own in store.state() {
                            changed(&self, &ObjectRef::from_obj(&*own), own.0.as_ref().ok());
                        }
                    }
                    Event::Apply(own) => {
                        changed(&self, &ObjectRef::from_obj(own), own.0.as_ref().ok());
                    }
                    Event::Delete(own) => changed(&self, &ObjectRef::from_obj(own), None),
                }
            }
        });
    }

    /// Looks at the definitions from time to time: they change with releases.
    async fn watch_definitions(self: Arc<Self>) {
        self.ready().await;
        loop {
            if let Some(found) = outdated(&self.client).await
                && *self.outdated.read() != found
            {
                for problem in &found {
                    tracing::warn!("{problem}");
                }
                *self.outdated.write() = found;
                self.every_instance();
            }
            tokio::time::sleep(DEFINITIONS).await;
        }
    }

    async fn watch_children(self: Arc<Self>, kind: ChildKind) {
        let name = kind.resource().plural;
        if kind.is_optional() {
            while !self.is_served(kind).await {
                tokio::time::sleep(LOOK).await;
            }
            self.optional.write().insert(kind);
            self.every_instance();
        }
        let mut config = watcher::Config::default().page_size(PAGE);
        if !kind.is_referred_to() {
            config = config.labels(&format!("{MANAGED_BY}={MANAGER}"));
        }
        if kind == ChildKind::Secret {
            config = config.fields("type!=helm.sh/release.v1");
        }
        let namespace = self.namespace.as_deref();
        let stream = match kind.is_seen_whole() {
            true => watcher(child_api(&self.client, namespace, kind), config).boxed(),
            false => {
                let resource = kind.resource();
                let client = self.client.clone();
                let api: Api<PartialObjectMeta<ChildObject>> = match namespace {
                    Some(namespace) => Api::namespaced_with(client, namespace, &resource),
                    None => Api::all_with(client, &resource),
                };
                let bare = |own: PartialObjectMeta<ChildObject>| ChildObject {
                    metadata: own.metadata,
                    ..ChildObject::default()
                };
                watcher(api, config)
                    .map_ok(move |event| event_of(event, bare))
                    .boxed()
            }
        };
        let mut stream = std::pin::pin!(stream.default_backoff());
        while let Some(event) = stream.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    tracing::warn!(kind = %name, %error, "cannot watch; trying again");
                    continue;
                }
            };
            let done = matches!(event, Event::InitDone);
            for change in self.children.take(kind, event) {
                self.child_changed(&change);
            }
            if done {
                self.has(&name);
            }
        }
    }

    /// Whether the cluster knows a kind; one that may not be listed is as good as unknown.
    async fn is_served(&self, kind: ChildKind) -> bool {
        let api = child_api(&self.client, self.namespace.as_deref(), kind);
        api.list_metadata(&ListParams::default().limit(1))
            .await
            .is_ok()
    }

    fn every_instance(&self) {
        for own in self.instances.state() {
            let namespace = own.namespace().unwrap_or_default();
            self.wake.instances.wake(&namespace, &own.name_any());
        }
    }

    /// Whether a resource differs from how it was passed on before.
    fn turned(&self, kind: &str, namespace: &str, name: &str, face: Option<u64>) -> bool {
        let key = format!("{kind}/{namespace}/{name}");
        let mut faces = self.faces.lock();
        match face {
            Some(face) => faces.insert(key, face) != Some(face),
            None => {
                faces.remove(&key);
                true
            }
        }
    }

    fn instance_changed(&self, reference: &ObjectRef<Guard<ArtifactDB>>, own: Option<&ArtifactDB>) {
        let (namespace, name) = parts(reference);
        let told = |own: &ArtifactDB| {
            let status = own.status.as_ref();
            let index = status.and_then(|status| status.index.as_ref());
            format!(
                "{:?} {:?}",
                index.and_then(|index| index.mapping_hash.as_ref()),
                status.and_then(|status| status.url.as_ref())
            )
        };
        let labels = own.map(|own| own.labels().clone());
        let now = own.map(|own| face(&own.metadata, ""));
        let readable = own.is_some();
        if self.turned("instance", namespace, name, now) || !readable {
            self.wake.instances.wake(namespace, name);
        }
        let now = own.map(|own| face(&own.metadata, &told(own)));
        if !self.turned("told", namespace, name, now) {
            return;
        }
        let selects = |selector: &Option<InstanceSelector>| match (&labels, selector) {
            (Some(labels), Some(selector)) => selector.matches(labels),
            _ => true,
        };
        each_in(&self.schemas, namespace, |schema| {
            self.wake.schemas.wake(namespace, &schema.name_any());
        });
        each_in(&self.plugins, namespace, |plugin| {
            if selects(&plugin.spec.instances) {
                self.wake.plugins.wake(namespace, &plugin.name_any());
            }
        });
        each_in(&self.schedules, namespace, |schedule| {
            if selects(&schedule.spec.instances) {
                self.wake.schedules.wake(namespace, &schedule.name_any());
            }
        });
    }

    fn schema_changed(
        &self,
        reference: &ObjectRef<Guard<ArtifactSchema>>,
        own: Option<&ArtifactSchema>,
    ) {
        let (namespace, name) = parts(reference);
        let now = own.map(|own| face(&own.metadata, ""));
        if !self.turned("schema", namespace, name, now) {
            return;
        }
        // The others' verdicts depend on it too.
        each_in(&self.schemas, namespace, |schema| {
            self.wake.schemas.wake(namespace, &schema.name_any());
        });
        self.wake.schemas.wake(namespace, name);
        each_in(&self.instances, namespace, |instance| {
            self.wake.instances.wake(namespace, &instance.name_any());
        });
    }

    fn plugin_changed(
        &self,
        reference: &ObjectRef<Guard<ArtifactPlugin>>,
        own: Option<&ArtifactPlugin>,
    ) {
        let (namespace, name) = parts(reference);
        let runs = own
            .and_then(|own| own.status.as_ref())
            .map(|own| &own.last_runs);
        let now = own.map(|own| face(&own.metadata, &format!("{runs:?}")));
        if self.turned("plugin-runs", namespace, name, now) {
            self.wake_chosen(namespace, own.map(|own| &own.spec.instances));
        }
        let now = own.map(|own| face(&own.metadata, ""));
        if !self.turned("plugin", namespace, name, now) {
            return;
        }
        self.wake.plugins.wake(namespace, name);
        self.wake_chosen(namespace, own.map(|own| &own.spec.instances));
        each_in(&self.schedules, namespace, |schedule| {
            if schedule
                .spec
                .plugin
                .as_ref()
                .is_some_and(|own| own.name == name)
            {
                self.wake.schedules.wake(namespace, &schedule.name_any());
            }
        });
    }

    fn schedule_changed(
        &self,
        reference: &ObjectRef<Guard<ArtifactSchedule>>,
        own: Option<&ArtifactSchedule>,
    ) {
        let (namespace, name) = parts(reference);
        let now = own.map(|own| face(&own.metadata, ""));
        if self.turned("schedule", namespace, name, now) {
            self.wake.schedules.wake(namespace, name);
            self.wake_chosen(namespace, own.map(|own| &own.spec.instances));
        }
    }

    /// Wakes the instances that a selector chooses; of what is gone, all of the namespace.
    fn wake_chosen(&self, namespace: &str, selector: Option<&Option<InstanceSelector>>) {
        each_in(&self.instances, namespace, |own: &ArtifactDB| {
            let chosen = match selector {
                Some(Some(selector)) => selector.matches(own.labels()),
                _ => true,
            };
            if chosen {
                self.wake.instances.wake(namespace, &own.name_any());
            }
        });
    }

    /// Takes in what the API server answered to a write of ours. The watch tells it again, as an echo
    /// that wakes nobody: who waits for it is woken now.
    pub fn learn(&self, kind: ChildKind, child: ChildObject) -> Arc<Child> {
        let child = self.children.learn(kind, child);
        if kind == ChildKind::CronJob {
            self.wake_namers(&child);
        }
        child
    }

    /// Wakes the plugin or schedule that a CronJob was rendered for.
    fn wake_namers(&self, child: &Child) {
        let namespace = &*child.namespace;
        let Some(source) = child.annotation(SOURCE) else {
            return;
        };
        match source.split_once('/') {
            Some(("plugin", name)) => self.wake.plugins.wake(namespace, name),
            Some(("schedule", name)) => self.wake.schedules.wake(namespace, name),
            _ => {}
        }
    }

    /// Wakes a plugin for a change of its runs: at once, and then not before a while, as the many
    /// changes of a burst would put off what is to be done about each.
    fn nudge(&self, namespace: &str, plugin: &str) {
        let key = format!("{namespace}/{plugin}");
        let mut nudges = self.nudges.lock();
        let wait = nudges.get(&key).map_or(Duration::ZERO, |due| {
            due.saturating_duration_since(Instant::now())
        });
        if wait > NUDGE {
            // One is on its way.
            return;
        }
        if nudges.len() > 1000 {
            nudges.retain(|_, due| *due > Instant::now());
        }
        nudges.insert(key, Instant::now() + wait + NUDGE);
        let (sender, name) = (self.wake.plugins.0.clone(), plugin.to_owned());
        let namespace = namespace.to_owned();
        drop(nudges);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            Queue(sender).wake(&namespace, &name);
        });
    }

    fn child_changed(&self, change: &Change) {
        let Some(child) = change.after.as_ref().or(change.before.as_ref()) else {
            return;
        };
        let namespace = &*child.namespace;
        for owner in &child.owners {
            if &*owner.kind == "ArtifactDB" {
                self.wake.instances.wake(namespace, &owner.name);
            }
        }
        if change.kind == ChildKind::CronJob {
            self.wake_namers(child);
        }
        if change.kind == ChildKind::Job
            && let Some(plugin) = child.label(PLUGIN)
            && moves(change)
        {
            self.nudge(namespace, plugin);
        }
        if !change.kind.is_referred_to() {
            return;
        }
        let name = &*child.name;
        each_in(&self.instances, namespace, |instance| {
            if references(&instance.spec).any(|own| own.kind == change.kind && own.name == name) {
                self.wake.instances.wake(namespace, &instance.name_any());
            }
        });
        if change.kind != ChildKind::ConfigMap {
            return;
        }
        let mut referred = false;
        each_in(&self.schemas, namespace, |schema| {
            if schema
                .spec
                .schema_ref
                .as_ref()
                .is_some_and(|own| own.config_map == name)
            {
                referred = true;
                self.wake.schemas.wake(namespace, &schema.name_any());
            }
        });
        if referred {
            each_in(&self.instances, namespace, |instance| {
                self.wake.instances.wake(namespace, &instance.name_any());
            });
        }
    }
}

/// Whether a change of a run lets another begin, or is to be told.
fn moves(change: &Change) -> bool {
    match (&change.before, &change.after) {
        (Some(before), Some(after)) => phase(before) != phase(after),
        _ => true,
    }
}

fn parts<K: Resource>(reference: &ObjectRef<K>) -> (&str, &str) {
    (
        reference.namespace.as_deref().unwrap_or_default(),
        &reference.name,
    )
}

/// Shows every resource of a namespace that can be read, without a copy.
pub fn each_in<K>(store: &Store<Guard<K>>, namespace: &str, mut show: impl FnMut(&K))
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let own = store.state_filter(|own| own.meta().namespace.as_deref() == Some(namespace));
    own.iter()
        .filter_map(|own| own.0.as_ref().ok())
        .for_each(&mut show);
}

/// Resources of a namespace that can be read and are chosen, shared with the cache; `read` shows them.
pub fn shared_in<K>(
    store: &Store<Guard<K>>,
    namespace: &str,
    chosen: impl Fn(&K) -> bool,
) -> Vec<Arc<Guard<K>>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    store.state_filter(|own| {
        own.meta().namespace.as_deref() == Some(namespace) && own.0.as_ref().is_ok_and(&chosen)
    })
}

pub fn read<K>(shared: &[Arc<Guard<K>>]) -> Vec<&K> {
    shared
        .iter()
        .filter_map(|own| own.0.as_ref().ok())
        .collect()
}

/// Copies of the resources of a namespace that are chosen.
pub fn chosen_in<K>(store: &Store<Guard<K>>, namespace: &str, chosen: impl Fn(&K) -> bool) -> Vec<K>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    read(&shared_in(store, namespace, chosen))
        .into_iter()
        .cloned()
        .collect()
}

fn event_of<A, B>(event: Event<A>, turn: impl FnOnce(A) -> B) -> Event<B> {
    match event {
        Event::Init => Event::Init,
        Event::InitApply(own) => Event::InitApply(turn(own)),
        Event::InitDone => Event::InitDone,
        Event::Apply(own) => Event::Apply(turn(own)),
        Event::Delete(own) => Event::Delete(turn(own)),
    }
}

/// A queue as `applier` wants it.
pub fn requests<K>(
    queue: mpsc::UnboundedReceiver<ObjectRef<K>>,
) -> impl Stream<Item = Result<ObjectRef<K>, std::convert::Infallible>>
where
    K: Resource,
    K::DynamicType: Hash + Eq,
{
    queue.map(Ok)
}

//! Bad resources are refused by the API server, or shown as conditions; the rest goes on.

use std::time::Duration;

use artifactdb_e2e::Space;

const LIMIT: Duration = Duration::from_secs(30);

fn instance(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: artifactdb.io/v1alpha1\nkind: ArtifactDB\nmetadata: {{name: {name}}}\nspec:\n{spec}"
    )
}

fn of(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: artifactdb.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}"
    )
}

#[tokio::test]
async fn bad_resources_are_refused_or_told() {
    let space = Space::new("refusals").await;
    space.apply(&space.sample("typical")).await;
    let servers =
        "  elasticsearch: {urls: [\"http://es:9200\"]}\n  redis: {url: \"redis://r:6379\"}\n";
    let storage = "  storage: [{alias: main, bucket: some-bucket}]\n";

    // By the API server: what is sent, and what the answer says.
    let long = "n".repeat(41);
    let refused = [
        (instance("x", servers), "name at least one storage"),
        (
            instance("x", &format!("{storage}  redis: {{url: \"redis://r\"}}\n")),
            "elasticsearch is required",
        ),
        (
            instance(
                "x",
                &format!("{storage}  elasticsearch: {{urls: [\"http://e\"]}}\n"),
            ),
            "redis is required",
        ),
        (space.sample("refused"), "storage aliases must be unique"),
        (
            instance(
                "x",
                &format!(
                    "{servers}{storage}  ingress: {{host: h}}\n  gateway: {{parentRef: {{name: g}}, hostname: h}}\n"
                ),
            ),
            "set ingress or gateway, not both",
        ),
        (
            instance(&long, &format!("{servers}{storage}")),
            "at most 40 characters",
        ),
        (
            instance(
                "x",
                &format!("{servers}  storage: [{{alias: main, bucket: b}}]\n"),
            ),
            "spec.storage[0].bucket",
        ),
        (
            instance(
                "x",
                &format!(
                    "{servers}  storage: [{{alias: m, bucket: some-bucket, endpoint: \"ftp://x\"}}]\n"
                ),
            ),
            "http or https URL",
        ),
        (
            instance(
                "x",
                &format!(
                    "{storage}  elasticsearch: {{urls: []}}\n  redis: {{url: \"redis://r\"}}\n"
                ),
            ),
            "spec.elasticsearch.urls",
        ),
        (
            instance(
                "x",
                &format!("{storage}  elasticsearch: {{urls: [\"http://e\"]}}\n  redis: {{}}\n"),
            ),
            "set url or urlSecretRef",
        ),
        (
            instance(
                "x",
                &format!("{servers}{storage}  api: {{autoscaling: {{min: 5, max: 2}}}}\n"),
            ),
            "min must not be greater than max",
        ),
        (
            instance("x", &format!("{servers}{storage}  api: {{replicas: -1}}\n")),
            "spec.api.replicas",
        ),
        (
            instance(
                "x",
                &format!("{servers}{storage}  deletionPolicy: Perhaps\n"),
            ),
            "spec.deletionPolicy",
        ),
        (
            instance(
                "x",
                &format!(
                    "{servers}{storage}  permissions: {{default: {{readAccess: everybody}}}}\n"
                ),
            ),
            "readAccess",
        ),
        (
            instance(
                "x",
                &format!(
                    "{servers}{storage}  sequences: [{{prefix: PRJ, pools: [{{type: provisioned, from: 9, to: 1}}]}}]\n"
                ),
            ),
            "from must not be greater than to",
        ),
        (
            of("ArtifactSchema", "x", "  type: t\n  version: v1\n"),
            "set schema or schemaRef",
        ),
        (
            of(
                "ArtifactSchema",
                "x",
                "  type: \"a b\"\n  version: v1\n  schema: {}\n",
            ),
            "spec.type",
        ),
        (of("ArtifactPlugin", "x", "  image: \"\"\n"), "spec.image"),
        (
            of("ArtifactPlugin", "x", "  image: i\n  \"on\": [sometimes]\n"),
            "spec.on[0]",
        ),
        (
            of("ArtifactPlugin", "x", "  image: i\n  timeout: soon\n"),
            "spec.timeout",
        ),
        (
            of(
                "ArtifactSchedule",
                "x",
                "  schedule: \"0 0 * * * *\"\n  task: sweep\n",
            ),
            "five fields",
        ),
        (
            of("ArtifactSchedule", "x", "  schedule: \"0 0 * * *\"\n"),
            "set plugin or task",
        ),
    ];
    for (text, wanted) in &refused {
        let answer = space.kubectl(&["apply", "-f", "-"], text).await;
        let problem = answer.expect_err(text);
        assert!(problem.contains(wanted), "'{wanted}' is not in: {problem}");
    }

    // By the operator: what no rule of the API server can know.
    let missing = instance(
        "missing",
        &format!(
            "{servers}  storage: [{{alias: main, bucket: some-bucket, credentialsSecretRef: {{name: nowhere}}}}]\n"
        ),
    );
    space.secret("half", &[("accessKey", "x")]).await;
    let half = instance(
        "half",
        &format!(
            "{servers}  storage: [{{alias: main, bucket: some-bucket, credentialsSecretRef: {{name: half}}}}]\n"
        ),
    );
    let duration = instance(
        "duration",
        &format!("{servers}{storage}  retention: {{staleAfter: soon}}\n"),
    );
    let switch = instance(
        "switch",
        &format!("{servers}{storage}  storageSwitch: {{header: X-S, contexts: {{a: nowhere}}}}\n"),
    );
    for text in [&missing, &half, &duration, &switch] {
        space.apply(text).await;
    }
    for (name, reason, wanted) in [
        ("missing", "SecretMissing", "'nowhere'"),
        ("half", "SecretKeyMissing", "'secretKey'"),
        ("duration", "InvalidSpec", "'soon'"),
        ("switch", "InvalidSpec", "'nowhere'"),
    ] {
        let message = space
            .until("ArtifactDB", name, "Ready", ("False", reason), LIMIT)
            .await;
        assert!(message.contains(wanted), "{message}");
    }
    // It is acted on as soon as it is mended.
    space
        .secret("nowhere", &[("accessKey", "x"), ("secretKey", "y")])
        .await;
    space
        .until(
            "ArtifactDB",
            "missing",
            "Ready",
            ("False", "RollingOut"),
            LIMIT,
        )
        .await;

    // Schemas that are no schema.
    let broken = of(
        "ArtifactSchema",
        "broken",
        "  type: broken\n  version: v1\n  schema: {properties: {a: {type: string, _elasticsearch: {type: nonsense}}}}\n",
    );
    let nowhere = of(
        "ArtifactSchema",
        "nowhere",
        "  type: nowhere\n  version: v1\n  schemaRef: {configMap: nowhere, key: s}\n",
    );
    let twice = of(
        "ArtifactSchema",
        "twice",
        "  type: table\n  version: v1\n  schema: {properties: {a: {type: string}}}\n",
    );
    for text in [&broken, &nowhere, &twice] {
        space.apply(text).await;
    }
    space
        .until(
            "ArtifactSchema",
            "broken",
            "Compiled",
            ("False", "Refused"),
            LIMIT,
        )
        .await;
    space
        .until(
            "ArtifactSchema",
            "nowhere",
            "Compiled",
            ("False", "Refused"),
            LIMIT,
        )
        .await;
    let message = space
        .until("ArtifactSchema", "twice", "Conflict", ("True", ""), LIMIT)
        .await;
    assert!(message.contains("'table-v1'"), "{message}");

    // A name that somebody else's object has.
    let theirs = "apiVersion: v1\nkind: Service\nmetadata: {name: taken}\nspec: {ports: [{port: 1}], selector: {a: b}}\n";
    space.apply(theirs).await;
    space
        .apply(
            &space
                .sample("smallest")
                .replace("name: smallest", "name: taken"),
        )
        .await;
    let message = space
        .until(
            "ArtifactDB",
            "taken",
            "Ready",
            ("False", "NameTaken"),
            LIMIT,
        )
        .await;
    assert!(message.contains("Service 'taken'"), "{message}");
    assert_eq!(
        space.get("Service", "taken").await["spec"]["selector"]["a"],
        "b"
    );

    // The one that is well was never held up.
    space.wait("adb/typical", "condition=Ready", 60).await;
    println!(
        "{} refused by the API server, 9 told by the operator",
        refused.len()
    );
    space.end().await;
}

//! Tokens and credentials, as whoever holds a wrong one sees them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, table};

#[tokio::test]
async fn wrong_tokens_are_400_with_a_reason() {
    let server = Server::start().await;
    let good = server.token_for("ann", &[]);
    let mut parts: Vec<String> = good.split('.').map(str::to_owned).collect();
    let payload: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(&parts[1]).unwrap()).unwrap();
    let seal = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let mut admin = payload.clone();
    admin["resource_access"] = json!({"artifactdb": {"roles": ["admin"]}});
    let forged = format!("{}.{}.{}", parts[0], seal(&admin), parts[2]);
    let none = format!(
        "{}.{}.",
        seal(&json!({"alg": "none", "kid": "standalone"})),
        seal(&admin)
    );
    parts[2].replace_range(0..4, "AAAA");
    let broken = parts.join(".");
    // A good token is used first: what is remembered of it must not help a forged one.
    assert_eq!(
        server.call(Method::GET, "/search?q=*", &good, None).await.0,
        200
    );
    for token in [forged.as_str(), &none, &broken, "nonsense", "a.b.c"] {
        let response = server
            .raw(Method::GET, "/search?q=*", token, None)
            .await
            .unwrap();
        assert_eq!(response.status(), 400, "{token}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        let body: Value = response.json().await.unwrap();
        assert!(
            body["reason"]
                .as_str()
                .unwrap()
                .starts_with("Invalid token"),
            "{body}"
        );
    }
    // Of another instance: its key is another.
    let other = Server::start().await;
    let (status, body) = server
        .call(Method::GET, "/search?q=*", &other.token, None)
        .await;
    assert_eq!(
        (status.as_u16(), &body["reason"]),
        (400, &json!("Invalid token, signature verification failed"))
    );
    // No scheme, another scheme: nobody.
    for value in ["", "Basic YTpi", &good] {
        let request = server
            .http
            .get(format!("{}/projects/lock", server.url))
            .header("authorization", value);
        assert_eq!(request.send().await.unwrap().status(), 401);
    }
}

#[tokio::test]
async fn signed_urls_are_good_for_exactly_what_they_say() {
    let server = Server::start().await;
    let files = table("a.csv", "a\n1\n", "first", 1);
    let (_, begun) = server.begin("P", "1", &files, &server.token).await;
    server.transfer(&begun, &files).await.unwrap();
    let url = begun["completion_url"].as_str().unwrap();
    let credential = url.split_once("X-ADB-Credential=").unwrap().1;
    let refused = async |path: String| {
        let (status, body) = server.call(Method::PUT, &path, "", Some(json!({}))).await;
        assert_eq!(status, 403, "{path}: {body}");
        body["reason"].as_str().unwrap().to_owned()
    };
    let reason = refused(url.replace("revision=NUM-1", "revision=NUM-9")).await;
    assert_eq!(
        reason,
        "Forbidden, 'params' don't match, not allowed (NUM-9 != NUM-1)"
    );
    refused(format!("{url}&surprise=1")).await;
    refused(format!(
        "/projects/P/version/2/complete?X-ADB-Credential={credential}"
    ))
    .await;
    refused(format!(
        "/projects/Q/version/1/complete?X-ADB-Credential={credential}"
    ))
    .await;
    refused(format!(
        "/projects/P/version/1/abort?X-ADB-Credential={credential}"
    ))
    .await;
    refused(format!(
        "/projects/P/version/1/complete?X-ADB-Credential=x{credential}"
    ))
    .await;
    refused("/projects/P/version/1/complete?X-ADB-Credential=garbage".to_owned()).await;
    let (status, _) = server
        .call(
            Method::PUT,
            "/projects/P/version/1/complete",
            "",
            Some(json!({})),
        )
        .await;
    assert_eq!(status, 401, "without a credential");
    // The one parameter that a client may add blindly.
    let (status, accepted) = server
        .call(
            Method::PUT,
            &format!("{url}&overwrite_permissions=true"),
            "",
            Some(json!({"read_access": "public"})),
        )
        .await;
    assert_eq!(status, 202, "{accepted}");
    assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
}

#[tokio::test]
async fn keys_come_from_the_identity_provider() {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    // A P-256 key pair made for this test.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgkH482jh203w692jG\n3Rei1bJjukzmOIfN0nhxSjaKn/ihRANCAASxA3npvU2BJcDtxBbjSJ2+B+2pAhcJ\nJLaSVvjtp0KFTIk9r/heEqyCsXtoFABP6TMQqhrpPwS3hKjCbykhA1RF\n-----END PRIVATE KEY-----\n";
    const X: &str = "sQN56b1NgSXA7cQW40idvgftqQIXCSS2klb47adChUw";
    const Y: &str = "iT2v-F4SrIKxe2gUAE_pMxCqGuk_BLeEqMJvKSEDVEU";
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let discovery = json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")});
    let keys = json!({"keys": [
        {"kty": "EC", "crv": "P-256", "kid": "enc", "use": "enc", "x": X, "y": Y},
        {"kty": "oct", "kid": "secret", "k": "AAAA"},
        {"kty": "EC", "crv": "P-256", "kid": "one", "use": "sig", "alg": "ES256", "x": X, "y": Y},
    ]});
    let provider = axum::Router::new()
        .route(
            "/.well-known/openid-configuration",
            axum::routing::get(move || async move { axum::Json(discovery) }),
        )
        .route(
            "/keys",
            axum::routing::get(move || async move { axum::Json(keys) }),
        );
    let provider = tokio::spawn(async move { axum::serve(listener, provider).await.unwrap() });
    let folder = tempfile::tempdir().unwrap();
    let resources = folder.path().join("instance.yaml");
    std::fs::write(&resources, format!("apiVersion: artifactdb.io/v1alpha1\nkind: ArtifactDB\nmetadata: {{name: oidc}}\nspec:\n  standalone: {{}}\n  auth:\n    knownClients: [portal]\n    oidc:\n      wellKnownPrimary: {issuer}/.well-known/openid-configuration\n      clientId: data\n")).unwrap();
    let server = Server::with(&resources).await;
    let token = |kid: &str, change: &dyn Fn(&mut Value)| {
        let mut claims = json!({
            "exp": jiff::Timestamp::now().as_second() + 600, "iss": issuer, "azp": "portal", "jti": "onrtro:1",
            "preferred_username": "ann", "resource_access": {"data": {"roles": ["uploader"]}},
        });
        change(&mut claims);
        let header = Header {
            kid: Some(kid.to_owned()),
            ..Header::new(Algorithm::ES256)
        };
        encode(
            &header,
            &claims,
            &EncodingKey::from_ec_pem(PRIVATE.as_bytes()).unwrap(),
        )
        .unwrap()
    };
    let reason = async |token: &str| {
        server
            .call(Method::GET, "/projects/lock", token, None)
            .await
    };
    assert_eq!(
        reason(&token("one", &|_| {})).await.0,
        200,
        "{}",
        server.log()
    );
    for (token, why) in [
        (token("enc", &|_| {}), "unknown public key"),
        (token("secret", &|_| {}), "unknown public key"),
        (
            token("one", &|claims| claims["iss"] = json!("https://elsewhere")),
            "wrong issuer",
        ),
        (
            token("one", &|claims| {
                claims.as_object_mut().unwrap().remove("iss");
            }),
            "wrong issuer",
        ),
        (
            token("one", &|claims| claims["azp"] = json!("stranger")),
            "unknown client_id",
        ),
        (token("one", &|claims| claims["exp"] = json!(1)), "expired"),
    ] {
        let (status, body) = reason(&token).await;
        assert_eq!(status, 400);
        assert!(
            body["reason"].as_str().unwrap().contains(why),
            "{why}: {body}"
        );
    }
    // The provider goes away: its keys stay.
    provider.abort();
    assert_eq!(
        reason(&token("one", &|claims| claims["jti"] = json!("2")))
            .await
            .0,
        200
    );
}
